//! `run`, `create`, `exec`, `plan`: from a request to a session.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use sbx_proto::message::Bytes;
use sbx_proto::session::{Exec, HomeFile, Tty, User as GuestUser, When};
use sbx_spec::{
    EnvVar, GuestPath, Origin, Publication, Rule, SandboxRequest, SandboxSpec, SessionVariables,
};

use sbx_images::{HomeContext, Kit};

use tokio::sync::mpsc;

use super::Engine;
use super::ports::{additional, published};
use super::prepare::image_error;
use super::start::{Stay, interrupted};
use super::target::{Meaning, Target};
use crate::client::Client;
use crate::command::{
    Code, CreateRequest, Ended, Entered, Error, ExecRequest, Fact, PlanReply, PlanStep, Reply,
    RunRequest, SandboxReply, SessionOptions, SessionReply, StdinChoice, TtyChoice, TtySize, Ui,
    User,
};
use crate::facts::HostFacts;
use crate::plan::{Boundary, Container, Machine, Plan};
use crate::session::{self, Asking, Opening};
use crate::setup::clock_ns;
use crate::store::SandboxDir;
use crate::supervisor::LOG_NAME;

impl Engine {
    pub(super) async fn run(&self, request: RunRequest, ui: &mut dyn Ui) -> Result<Reply, Error> {
        let meaning = self.meaning(&request.subject, &request.sandbox, ui).await?;
        if request.dry_run {
            return self.plan_of(meaning, &request.sandbox).await;
        }
        let (sandbox, spec, created) = self.made(meaning.target)?;
        self.equip(&sandbox, created, &request.sandbox, ui).await?;
        let stay = if request.detach {
            Stay::UntilStopped
        } else {
            Stay::WhileUsed
        };
        let up = self.bring_up(&sandbox, stay, ui).await;
        let (entered, plan) = match up {
            Ok(up) => up,
            Err(error) => {
                // A sandbox that never came as far as a machine is nothing the
                // user has yet; one that did has a log that tells why.
                if created && !sandbox.run_directory().join(LOG_NAME).exists() {
                    self.forget(&sandbox).await;
                }
                return Err(error);
            }
        };
        if request.detach {
            return Ok(Reply::Sandbox(SandboxReply {
                sandbox: self.brief(&sandbox),
                created,
            }));
        }
        let entered = if created { Entered::Created } else { entered };
        let kit = self.kit(&spec.kit)?;
        let home = HomeContext {
            workdir: &spec.workdir,
            env: &meaning.credentials,
        };
        let files = kit.home_files(&home).map_err(|error| image_error(&error))?;
        let mut argv: Vec<OsString> = kit.start.iter().map(Into::into).collect();
        if request.unattended {
            let more = kit.unattended.iter().map(OsString::from);
            argv.extend(more.filter(|arg| !request.agent_args.contains(arg)));
        }
        argv.extend(request.agent_args);
        let program = Program {
            argv,
            env: Vec::new(),
            kit_env: kit_env(&kit),
            credentials: meaning.credentials,
            cwd: request.sandbox.workdir.clone(),
            user: request.user,
            files: files
                .into_iter()
                .map(|file| HomeFile {
                    path: file.path.into_bytes().into(),
                    mode: file.mode,
                    content: file.content.into(),
                    when: When::Missing,
                })
                .collect(),
            login: true,
        };
        let policy = self.effective(Some((&sandbox, &spec)))?;
        let block = self.start_block(&sandbox, &spec, entered, plan.as_ref(), &program, &policy);
        ui.opening(&block);
        let ended = self
            .session(&sandbox, &spec, program, request.session, ui)
            .await;
        let interrupted_at_once = matches!(&ended, Err(error) if error.code == Code::Interrupted);
        if interrupted_at_once && plan.is_some() {
            // As if it had been heard while the machine came up.
            self.bring_down(&sandbox, Duration::ZERO).await?;
            if request.remove_after {
                self.close(&sandbox, true, ui).await?;
            }
            return Err(interrupted(&spec.name));
        }
        self.close(&sandbox, request.remove_after, ui).await?;
        Ok(Reply::Session(SessionReply {
            name: spec.name,
            ended: ended?,
        }))
    }

    pub(super) async fn create(
        &self,
        request: &CreateRequest,
        ui: &mut dyn Ui,
    ) -> Result<Reply, Error> {
        let meaning = self.meaning(&request.subject, &request.sandbox, ui).await?;
        let (sandbox, spec, created) = self.made(meaning.target)?;
        self.equip(&sandbox, created, &request.sandbox, ui).await?;
        let prepared = {
            let _leave = sandbox.change(super::PATIENCE)?;
            self.prepare(&spec, &sandbox, ui).await
        };
        if let Err(error) = prepared {
            if created {
                self.forget(&sandbox).await;
            }
            return Err(error);
        }
        Ok(Reply::Sandbox(SandboxReply {
            sandbox: self.brief(&sandbox),
            created,
        }))
    }

    pub(super) async fn exec(&self, request: ExecRequest, ui: &mut dyn Ui) -> Result<Reply, Error> {
        let sandbox = self.find(&request.name)?;
        let spec = sandbox.record()?.spec;
        self.bring_up(&sandbox, Stay::WhileUsed, ui).await?;
        let kit_env = kit_env(&self.kit(&spec.kit)?);
        let mut program = Program {
            argv: request.argv,
            env: request.env,
            kit_env,
            credentials: Vec::new(),
            cwd: request.workdir,
            user: request.user,
            files: Vec::new(),
            login: false,
        };
        if request.detach {
            program.argv = detached(program.argv);
            let exec = self.exec_message(&spec, program, None)?;
            let client = Client::connect(&self.runtime(sandbox.name()))?;
            session::detach(client, &exec).await?;
            return Ok(Reply::Done {});
        }
        let ended = self
            .session(&sandbox, &spec, program, request.session, ui)
            .await?;
        Ok(Reply::Session(SessionReply {
            name: request.name,
            ended,
        }))
    }

    /// The plan of what `create` or `run` would do.
    pub(super) async fn plan(
        &self,
        request: &CreateRequest,
        ui: &mut dyn Ui,
    ) -> Result<Reply, Error> {
        let meaning = self.meaning(&request.subject, &request.sandbox, ui).await?;
        self.plan_of(meaning, &request.sandbox).await
    }

    async fn plan_of(&self, meaning: Meaning, request: &SandboxRequest) -> Result<Reply, Error> {
        let (mut spec, exists) = match &meaning.target {
            Target::Existing(_, spec) => (spec.clone(), true),
            Target::New(spec) => (spec.clone(), false),
        };
        let policy = match &meaning.target {
            Target::Existing(sandbox, spec) => self.effective(Some((sandbox, spec)))?,
            Target::New(spec) => self.foreseen_policy(spec, &request.rules)?,
        };
        let mut ports = match &meaning.target {
            Target::Existing(sandbox, _) => published(sandbox)?,
            Target::New(_) => Vec::new(),
        };
        ports.extend(additional(&ports, &request.publish));
        let facts = HostFacts::gather_for(&self.caller, spec.isolation);
        let (files, mut steps) = self.foreseen(&spec).await?;
        let plan = crate::plan::plan(&spec, &facts, &files, policy.network())?;
        steps.extend(plan_steps(&plan, exists));
        if !ports.is_empty() {
            steps.push(PlanStep {
                what: "publish ports".to_owned(),
                detail: ports.iter().map(Publication::shown).collect(),
                cached: false,
            });
        }
        for variable in &mut spec.env {
            variable.value.clear();
        }
        Ok(Reply::Plan(Box::new(PlanReply {
            spec,
            exists,
            facts: fact_list(&facts),
            steps,
            warnings: plan.warnings,
        })))
    }

    /// Makes a new sandbox; true if this command made it.
    fn made(&self, target: Target) -> Result<(SandboxDir, SandboxSpec, bool), Error> {
        match target {
            Target::Existing(sandbox, spec) => Ok((sandbox, spec, false)),
            Target::New(spec) => {
                self.directories.prepare()?;
                Ok((self.store().create(&spec)?, spec, true))
            }
        }
    }

    /// Gives a sandbox the rules and published ports that were typed. One that
    /// was made for them does not stay without.
    async fn equip(
        &self,
        sandbox: &SandboxDir,
        created: bool,
        request: &SandboxRequest,
        ui: &mut dyn Ui,
    ) -> Result<(), Error> {
        let mut equipped = self.publish(sandbox, &request.publish).await;
        if equipped.is_ok() {
            equipped = self.add_rules(sandbox, &request.rules, ui).await;
        }
        if equipped.is_err() && created {
            self.forget(sandbox).await;
        }
        equipped
    }

    async fn forget(&self, sandbox: &SandboxDir) {
        if let Ok(leave) = sandbox.change(super::PATIENCE) {
            let _ = self.remove_containers(sandbox).await;
            // What cannot be removed now is found by `gc`.
            let _ = self.store().remove(sandbox, &leave);
        }
    }

    async fn session(
        &self,
        sandbox: &SandboxDir,
        spec: &SandboxSpec,
        program: Program,
        options: SessionOptions,
        ui: &mut dyn Ui,
    ) -> Result<Ended, Error> {
        let mut terminal = ui.terminal()?;
        // From here on signals are the session's. One that came before, when
        // nobody waited for it any more, is not lost.
        if ui.cancel().is_cancelled() {
            return Err(interrupted(&spec.name));
        }
        let wanted = match options.tty {
            TtyChoice::Auto => terminal.is.stdin && terminal.is.stdout,
            TtyChoice::Always => true,
            TtyChoice::Never => false,
        };
        let size = terminal.size.unwrap_or(session::NO_SIZE);
        let exec = self.exec_message(spec, program, wanted.then_some(size))?;
        let client = self.enter(sandbox, ui).await?;
        let stdin = options.stdin == StdinChoice::Passed;
        let (said, answers) = mpsc::unbounded_channel();
        let prompt = terminal.prompt.take().filter(|_| exec.tty.is_some());
        let asking = prompt.map(|prompt| Asking {
            runtime: self.runtime(sandbox.name()),
            sandbox: sandbox.name().clone(),
            prompt,
            said,
        });
        let opening = Opening {
            exec,
            stdin,
            asking,
        };
        let attached = session::attach(client, opening, terminal);
        let (ended, failed) = tokio::join!(attached, self.answer_all(answers));
        for error in failed {
            ui.warn(&format!("an answer did not count: {error}"));
        }
        ended
    }

    /// A connection that may open a session. A sandbox can go down between
    /// the look at its state and the knock at its door; it is then started
    /// again.
    async fn enter(&self, sandbox: &SandboxDir, ui: &mut dyn Ui) -> Result<Client, Error> {
        let mut tries = 0;
        loop {
            let entered = async {
                let mut client = Client::connect(&self.runtime(sandbox.name()))?;
                session::request(&mut client).await?;
                Ok::<_, Error>(client)
            };
            match entered.await {
                Err(error) if error.code == Code::Link && tries < 2 => {
                    tries += 1;
                    self.bring_up(sandbox, Stay::WhileUsed, ui).await?;
                }
                entered => return entered,
            }
        }
    }

    fn exec_message(
        &self,
        spec: &SandboxSpec,
        program: Program,
        tty: Option<TtySize>,
    ) -> Result<Exec, Error> {
        let env = SessionVariables {
            sandbox: &spec.name,
            terminal: &self.caller.terminal,
            timezone: self.caller.timezone.as_deref(),
            kit: &program.kit_env,
            spec: &spec.env,
            credentials: &program.credentials,
            session: &program.env,
        }
        .resolve();
        let term = env.iter().find(|variable| variable.name == "TERM");
        let term = term
            .map_or("xterm-256color", |variable| variable.value.as_str())
            .to_owned();
        let text = |text: &str| -> Bytes { text.as_bytes().to_vec().into() };
        Ok(Exec {
            argv: program
                .argv
                .iter()
                .map(|arg| arg.as_bytes().to_vec().into())
                .collect(),
            env: env
                .iter()
                .map(|variable| (text(&variable.name), text(&variable.value)))
                .collect(),
            cwd: program.cwd.map(|path| path.as_bytes().to_vec().into()),
            user: guest_user(program.user)?,
            tty: tty.map(|size| Tty {
                rows: size.rows,
                cols: size.cols,
                term,
            }),
            files: program.files,
            clock_ns: clock_ns(),
            login: program.login,
        })
    }
}

/// A program to run inside, and what it is given.
pub(super) struct Program {
    argv: Vec<OsString>,
    pub(super) env: Vec<EnvVar>,
    kit_env: Vec<EnvVar>,
    pub(super) credentials: Vec<EnvVar>,
    cwd: Option<GuestPath>,
    user: Option<User>,
    files: Vec<HomeFile>,
    login: bool,
}

fn kit_env(kit: &Kit) -> Vec<EnvVar> {
    let variable = |(name, value): (&String, &String)| EnvVar {
        name: name.clone(),
        value: value.clone(),
    };
    kit.env.iter().map(variable).collect()
}

/// The same program without streams: nobody will read what it prints.
fn detached(argv: Vec<OsString>) -> Vec<OsString> {
    let wrap = [
        "/bin/sh",
        "-c",
        "exec \"$@\" </dev/null >/dev/null 2>&1",
        "sh",
    ];
    wrap.into_iter().map(Into::into).chain(argv).collect()
}

fn guest_user(user: Option<User>) -> Result<GuestUser, Error> {
    Ok(match user {
        None | Some(User::Agent) => GuestUser::Agent,
        Some(User::Root) => GuestUser::Root,
        Some(User::Ids(uid, gid)) => GuestUser::Ids {
            uid,
            gid: gid.unwrap_or(uid),
        },
        Some(User::Name(name, None)) => GuestUser::Name { name },
        Some(User::Name(name, Some(group))) => {
            return Err(Error::new(
                Code::Usage,
                format!("cannot run as `{name}:{group}`: give a name alone, or numbers"),
            ));
        }
    })
}

fn plan_steps(plan: &Plan, exists: bool) -> Vec<PlanStep> {
    let step = |what: &str, detail: Vec<String>| PlanStep {
        what: what.to_owned(),
        detail,
        cached: false,
    };
    let mut steps = Vec::new();
    if !exists {
        steps.push(step("write down the sandbox", vec![plan.name.to_string()]));
    }
    for share in &plan.shares {
        steps.push(step(
            match &plan.boundary {
                Boundary::MicroVm(_) => "serve a directory",
                Boundary::Container(_) | Boundary::Docker(_) => "mount a directory",
            },
            vec![
                format!("host {}", share.host.display()),
                format!("guest {}", share.guest.as_path().display()),
                format!("access {:?}", share.access).to_lowercase(),
            ],
        ));
    }
    if let Some(network) = &plan.network {
        let written = |rule: &&Rule| !matches!(rule.origin(), Origin::Preset(_));
        let mut detail = vec![format!("preset {}", network.preset)];
        detail.extend(
            network
                .rules
                .iter()
                .filter(written)
                .map(ToString::to_string),
        );
        steps.push(step("start the network engine", detail));
    }
    steps.push(match &plan.boundary {
        Boundary::MicroVm(machine) => step("boot the machine", command_line(plan, machine)),
        Boundary::Container(container) => step("enter the container", contents(container)),
        Boundary::Docker(docker) => step(
            "start the containers",
            vec![
                format!(
                    "engine {} at {}",
                    docker.engine.name, docker.engine.endpoint
                ),
                format!("image {}", docker.image),
            ],
        ),
    });
    steps
}

fn command_line(plan: &Plan, machine: &Machine) -> Vec<String> {
    let numbers = crate::microvm::qemu::Descriptors::number(
        machine.disks.len(),
        plan.network.is_some(),
        plan.shares.len(),
    );
    let tags: Vec<_> = plan.shares.iter().map(|share| share.tag.clone()).collect();
    let mut line = vec![machine.program.display().to_string()];
    line.extend(crate::microvm::qemu::arguments(machine, &numbers, &tags));
    line
}

fn contents(container: &Container) -> Vec<String> {
    let ids = container.maps.uids.iter().map(|range| {
        format!(
            "users {} to {} are {} and on of the host",
            range.inside,
            range.inside.saturating_add(range.count.saturating_sub(1)),
            range.outside
        )
    });
    let mut lines: Vec<_> = ids.collect();
    lines.push(format!("template {}", container.tree.display()));
    lines.push(format!("own files {}", container.directory.display()));
    lines
}

fn fact_list(facts: &HostFacts) -> Vec<Fact> {
    let fact = |name: &str, value: String| Fact {
        name: name.to_owned(),
        value,
    };
    vec![
        fact("kvm", facts.virtualisation.to_string()),
        fact("processors", facts.cpus.to_string()),
        fact("memory", facts.memory.to_string()),
    ]
}
