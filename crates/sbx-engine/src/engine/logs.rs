//! `logs`: what the parts of a sandbox wrote.

use sbx_sys::file;

use super::Engine;
use super::tail::{LOOK, Rolled, Tail};
use crate::command::{Error, LogLine, LogsReply, LogsRequest, Reply, Ui};
use crate::store::SandboxDir;
use crate::supervisor::{LOG_NAME, LOG_OLDER, MAX_LOG_FILE};

const LOG: Rolled = Rolled {
    name: LOG_NAME,
    older: LOG_OLDER,
    most: MAX_LOG_FILE,
};

impl Engine {
    pub(super) async fn logs(
        &self,
        request: &LogsRequest,
        ui: &mut dyn Ui,
    ) -> Result<Reply, Error> {
        let sandbox = self.find(&request.name)?;
        let directory = sandbox.run_directory();
        let mut tail = Tail::default();
        let mut lines: Vec<LogLine> = Vec::new();
        tail.read(&directory, LOG, |line| lines.push(line));
        lines.extend(stray(&sandbox));
        if let Some(count) = request.tail {
            lines = lines.split_off(lines.len().saturating_sub(count));
        }
        if !request.follow {
            return Ok(Reply::Logs(LogsReply { lines }));
        }
        for line in &lines {
            ui.log(line);
        }
        let mut cancel = ui.cancel();
        while self.store().find(&request.name).is_some() {
            tail.read(&directory, LOG, |line| ui.log(&line));
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = cancel.cancelled() => break,
            }
        }
        Ok(Reply::Done {})
    }
}

/// What a supervisor said before its log was open, or in its last moment.
fn stray(sandbox: &SandboxDir) -> Vec<LogLine> {
    let text = file::read_bounded(sandbox.join("supervisor.err"), 64 * 1024);
    let text = text.unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .map(|line| LogLine {
            source: "supervisor".to_owned(),
            time_ms: None,
            text: line.to_owned(),
        })
        .collect()
}
