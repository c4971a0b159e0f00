//! `logs`: what the parts of a sandbox wrote.

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use sbx_sys::file;

use super::Engine;
use crate::command::{Error, LogLine, LogsReply, LogsRequest, Reply, Ui};
use crate::store::SandboxDir;
use crate::supervisor::{LOG_NAME, LOG_OLDER, MAX_LOG_FILE};

/// How often a followed log is looked at: there is no event for a file that
/// grows on every file system.
const LOOK: Duration = Duration::from_millis(100);

impl Engine {
    pub(super) async fn logs(
        &self,
        request: &LogsRequest,
        ui: &mut dyn Ui,
    ) -> Result<Reply, Error> {
        let sandbox = self.find(&request.name)?;
        let directory = sandbox.run_directory();
        let mut lines = Tail::default().read(&directory, LOG_OLDER);
        let mut tail = Tail::default();
        lines.extend(tail.read(&directory, LOG_NAME));
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
            for line in tail.read(&directory, LOG_NAME) {
                ui.log(&line);
            }
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

/// How far a log was read.
#[derive(Default)]
struct Tail {
    at: u64,
}

impl Tail {
    fn read(&mut self, directory: &Path, name: &str) -> Vec<LogLine> {
        let opened = file::open_dir(directory).and_then(|dir| file::open_at(dir, name));
        let Ok(mut file) = opened else {
            return Vec::new();
        };
        let size = file.metadata().map_or(0, |found| found.len());
        if size < self.at {
            // It was turned over: start with the new one.
            self.at = 0;
        }
        if file.seek(SeekFrom::Start(self.at)).is_err() {
            return Vec::new();
        }
        let mut lines = Vec::new();
        let mut reader = BufReader::new(file.take(2 * MAX_LOG_FILE));
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|count| count > 0)
        {
            if line.last() != Some(&b'\n') {
                break;
            }
            self.at += line.len() as u64;
            if let Ok(entry) = serde_json::from_slice(&line) {
                lines.push(entry);
            }
            line.clear();
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_line_is_shown_once_and_only_when_it_is_whole() {
        let root = tempfile::tempdir().unwrap();
        let mut file = std::fs::File::create(root.path().join(LOG_NAME)).unwrap();
        let line = r#"{"source":"boot","time_ms":1,"text":"one"}"#;
        write!(file, "{line}\n{}", &line[..10]).unwrap();
        let mut tail = Tail::default();
        assert_eq!(tail.read(root.path(), LOG_NAME).len(), 1);
        assert_eq!(tail.read(root.path(), LOG_NAME).len(), 0);
        writeln!(file, "{}", &line[10..]).unwrap();
        assert_eq!(tail.read(root.path(), LOG_NAME)[0].text, "one");
    }
}
