//! One session: from its Exec to its exit code.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, Signal as Kill};
use sbx_proto::flow::{Channel, Credit};
use sbx_proto::session::{Exec, Exit, Refused, Resize, Signal, Started};
use sbx_proto::{Frame, Kind, Message, MessageError};
use tokio::sync::{mpsc, oneshot, watch};

use super::World;
use super::link::{nonblocking, read_some, readiness};
use super::pump::{self, Lane, Outlet, Phase, Piece};
use super::terminal::{self, Ends};
use crate::error::{Attempt as _, Result};
use crate::launch::parent::{self, MAX_REPORT, parse_report};
use crate::launch::{Cwd, Failure, Launch, Privileges, Terminal};
use crate::program;

/// Between SIGHUP and SIGKILL when the client is gone.
const HANGUP_GRACE: Duration = Duration::from_secs(2);

/// What the client says to a running session.
pub(crate) enum Input {
    Data(Vec<u8>),
    End,
    Credit(Credit),
    Resize(Resize),
    Signal(Signal),
    Close,
    /// From here, not from the client: the sandbox stops.
    TerminalGone,
}

impl Input {
    pub(crate) fn from_frame(frame: Frame) -> Result<Self, MessageError> {
        Ok(match frame.kind {
            Kind::Stdin => Self::Data(frame.payload),
            Kind::Eof => match Channel::from_eof(&frame.payload)? {
                Channel::Stdin => Self::End,
                _ => return Err(MessageError::Field(Kind::Eof, "channel")),
            },
            Kind::Credit => Self::Credit(Credit::from_payload(&frame.payload)?),
            Kind::Resize => Self::Resize(Resize::from_frame(&frame)?),
            Kind::Signal => Self::Signal(Signal::from_frame(&frame)?),
            _ => Self::Close,
        })
    }
}

/// Runs the session that `frame` opens and sends its end.
pub(crate) async fn run(world: &World, frame: Frame, inbox: mpsc::UnboundedReceiver<Input>) {
    let outlet = Outlet {
        stream: frame.stream,
        queue: world.out.clone(),
    };
    let refuse = |message: String| Failure { code: 125, message };
    let end = match Exec::from_frame(&frame) {
        Err(error) => Err(refuse(error.to_string())),
        Ok(exec) => {
            drop(frame);
            world.set_clock(exec.clock_ns);
            match start(world, exec) {
                Ok(running) => running.serve(&outlet, inbox).await,
                Err(error) => Err(refuse(error.line())),
            }
        }
    };
    let frame = match end {
        Ok(exit) => exit.to_frame(outlet.stream),
        Err(Failure { code, message }) => {
            let message = message.chars().take(1000).collect();
            Refused { code, message }.to_frame(outlet.stream)
        }
    };
    if let Ok(frame) = frame {
        outlet.send(frame).await;
    }
}

/// A started process that may not have come to its program yet.
struct Running {
    pid: Pid,
    report: OwnedFd,
    exit: oneshot::Receiver<Exit>,
    ends: Ends,
}

fn start(world: &World, exec: Exec) -> Result<Running> {
    let (stdio, ends) = match &exec.tty {
        Some(tty) => terminal::terminal(tty)?,
        None => terminal::pipes()?,
    };
    let mut env = Vec::new();
    if let Some(tty) = &exec.tty {
        env.push((
            b"TERM".to_vec().into(),
            tty.term.clone().into_bytes().into(),
        ));
    }
    env.extend(exec.env);
    let launch = Launch {
        context: world.context.clone(),
        user: exec.user,
        argv: exec.argv,
        arg0: None,
        env,
        cwd: exec.cwd.map_or(Cwd::Default, |path| Cwd::Path { path }),
        files: exec.files,
        terminal: match exec.tty {
            Some(_) => Terminal::Stdin,
            None => Terminal::None,
        },
        own_stdio: true,
        privileges: Privileges::ByUser,
    };
    let (pid, report) = parent::start(&launch, stdio)?;
    let exit = world.reaper.borrow_mut().exit_of(pid);
    if let Some(cgroup) = &world.cgroup
        && let Err(error) = cgroup.enter(pid)
    {
        let _ = rustix::process::kill_process(pid, Kill::KILL);
        return Err(error);
    }
    nonblocking(&report).attempt("create a pipe")?;
    Ok(Running {
        pid,
        report,
        exit,
        ends,
    })
}

impl Running {
    async fn serve(
        self,
        outlet: &Outlet,
        inbox: mpsc::UnboundedReceiver<Input>,
    ) -> Result<Exit, Failure> {
        let (phase, watched) = watch::channel(Phase::default());
        let (pieces, queue) = mpsc::unbounded_channel();
        let (stdout, stderr) = (Lane::default(), Lane::default());
        let control = Control {
            pid: self.pid,
            master: self.ends.master,
            pieces,
            stdout: &stdout,
            stderr: &stderr,
            phase: &phase,
        };
        let is_terminal = control.master.is_some();
        let program = async {
            wait_launched(self.report).await?;
            let pid = u32::try_from(self.pid.as_raw_nonzero().get()).unwrap_or(0);
            if let Ok(started) = (Started { pid }).to_frame(outlet.stream) {
                outlet.send(started).await;
            }
            let ended = async {
                let exit = self.exit.await;
                phase.send_modify(|phase| phase.ended = true);
                exit
            };
            let errors = async {
                if let Some(fd) = self.ends.stderr {
                    pump::output(fd, Channel::Stderr, &stderr, outlet, watched.clone()).await;
                }
            };
            let output = pump::output(
                self.ends.stdout,
                Channel::Stdout,
                &stdout,
                outlet,
                watched.clone(),
            );
            let (exit, (), ()) = tokio::join!(ended, output, errors);
            exit.map_err(|_| Failure {
                code: 125,
                message: "the program's end was not seen".to_owned(),
            })
        };
        let input = async {
            pump::input(self.ends.stdin, is_terminal, queue, outlet).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            end = program => end,
            () = control.follow(inbox) => unreachable_end(),
            () = input => unreachable_end(),
        }
    }
}

/// For the branches that never finish before the program does.
fn unreachable_end() -> Result<Exit, Failure> {
    Err(Failure {
        code: 125,
        message: "the session ended before its program".to_owned(),
    })
}

/// Waits until the program runs, or the reason why it does not.
async fn wait_launched(report: OwnedFd) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure {
        code: 125,
        message: format!("start a program: {error}"),
    };
    let report = readiness(report).map_err(failed)?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 1024];
    while bytes.len() < MAX_REPORT {
        let read = read_some(&report, &mut buffer).await.map_err(failed)?;
        if read == 0 {
            break;
        }
        bytes.extend_from_slice(buffer.get(..read).unwrap_or_default());
    }
    parse_report(&bytes)
}

/// What acts on a session's client.
struct Control<'a> {
    pid: Pid,
    master: Option<OwnedFd>,
    pieces: mpsc::UnboundedSender<Piece>,
    stdout: &'a Lane,
    stderr: &'a Lane,
    phase: &'a watch::Sender<Phase>,
}

impl Control<'_> {
    /// Acts on what the client says; never ends.
    async fn follow(self, mut inbox: mpsc::UnboundedReceiver<Input>) {
        while let Some(input) = inbox.recv().await {
            if !self.act(input) {
                self.hang_up().await;
                break;
            }
        }
        std::future::pending().await
    }

    /// False when the session is to end.
    fn act(&self, input: Input) -> bool {
        match input {
            Input::Data(bytes) if bytes.is_empty() => {}
            Input::Data(bytes) => drop(self.pieces.send(Piece::Data(bytes))),
            Input::End => drop(self.pieces.send(Piece::End)),
            Input::Credit(Credit { channel, bytes }) => {
                let granted = match channel {
                    Channel::Stdout => self.stdout.grant(bytes),
                    Channel::Stderr => self.stderr.grant(bytes),
                    Channel::Stdin => return false,
                };
                if let Err(error) = granted {
                    program::log(&error.to_string());
                    return false;
                }
            }
            Input::Resize(Resize { rows, cols }) => {
                if let Some(master) = &self.master {
                    let _ = terminal::resize(master, rows, cols);
                }
            }
            Input::Signal(Signal { number }) => self.signal(number),
            Input::Close => return false,
            Input::TerminalGone => {
                if self.master.is_some() && !self.phase.borrow().ended {
                    let _ = rustix::process::kill_process_group(self.pid, Kill::HUP);
                }
            }
        }
        true
    }

    fn signal(&self, number: u8) {
        let Some(signal) = Kill::from_named_raw(number.into()) else {
            return;
        };
        // Once the program is reaped its number may be another's.
        if self.phase.borrow().ended {
            return;
        }
        let group = self.master.as_ref().and_then(terminal::foreground);
        let _ = rustix::process::kill_process_group(group.unwrap_or(self.pid), signal);
    }

    async fn hang_up(&self) {
        self.phase.send_modify(|phase| phase.abandoned = true);
        for signal in [Kill::HUP, Kill::CONT] {
            signal_session(self.pid, signal);
        }
        tokio::time::sleep(HANGUP_GRACE).await;
        if !self.phase.borrow().ended {
            signal_session(self.pid, Kill::KILL);
        }
    }
}

/// Signals every process of the session that `leader` leads.
pub(crate) fn signal_session(leader: Pid, signal: Kill) {
    let wanted = leader.as_raw_nonzero().get();
    let Ok(processes) = std::fs::read_dir("/proc") else {
        let _ = rustix::process::kill_process_group(leader, signal);
        return;
    };
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        // The name may hold anything, the last parenthesis ends it: state,
        // parent, group, session.
        let session = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_whitespace().nth(3)?.parse::<i32>().ok());
        if session == Some(wanted)
            && let Some(pid) = Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}
