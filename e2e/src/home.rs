//! A home directory of the test's own, and `sbx` called in it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rustix::process::Pid;
use serde_json::Value;

use crate::call::{Sbx, start};
use crate::engine::{Engine, Kind};
use crate::isolation::{Isolation, memory_can_be_held};
use crate::leftovers::Process;
use crate::sandbox::Sandbox;
use crate::skip::Fact;
use crate::world::World;
use crate::{environment, leftovers};

/// Kernel, template and kits from nothing, on two busy processors.
const FROM_NOTHING: Duration = Duration::from_secs(60 * 60);

/// Whom the workspaces beside an engine belong to: an ordinary user, as almost
/// everybody's do. An engine maps no owners, so it makes a difference there.
const OWNER: u32 = 1000;

/// How long a process may take to come.
const START: Duration = Duration::from_secs(60);

/// The steps of a plan that fill the cache.
const MADE_ONCE: &[&str] = &[
    "build the guest kernel",
    "build the base template",
    "fetch the agent's program",
];

/// One home at a time in a process: what is left over below the process then
/// belongs to it.
static TURN: Mutex<()> = Mutex::new(());

/// A hermetic home. At its end every sandbox in it is removed, and the test
/// fails if anything is left on the host.
pub struct Home {
    root: tempfile::TempDir,
    programs: PathBuf,
    cache: PathBuf,
    ids: Option<u32>,
    isolation: Option<Isolation>,
    world: Option<World>,
    engine: Option<Engine>,
    _turn: MutexGuard<'static, ()>,
}

impl Home {
    /// An empty home, with everything made that sandboxes start from.
    pub fn new() -> Self {
        let home = Self::unprepared();
        home.prepare();
        home
    }

    /// The same, whose calls all choose `isolation`, as a user does who has it
    /// in the environment.
    pub fn of(isolation: Isolation) -> Self {
        let mut home = Self::new();
        home.isolation = Some(isolation);
        if isolation == Isolation::Docker {
            home.has(Engine::shared(home.root.path()));
        }
        home
    }

    /// The same for what containers of an engine alone do; `None` where the
    /// test `name` does not go on, since the daemons of engines run as root.
    pub fn docked(name: &str) -> Option<Self> {
        let goes_on = Fact::Root.holds_for(name);
        goes_on.then(|| Self::of(Isolation::Docker))
    }

    /// The flag that gives a sandbox so much memory; none where nothing could
    /// hold that, and asking for it would be an error.
    pub fn memory<'a>(&self, size: &'a str) -> Vec<&'a str> {
        let contained = self.isolation == Some(Isolation::Container);
        if contained && !memory_can_be_held() {
            return Vec::new();
        }
        vec!["--memory", size]
    }

    /// An empty home for tests that need no sandbox.
    pub fn unprepared() -> Self {
        let turn = TURN.lock();
        leftovers::adopt();
        // Short: paths of sockets end at 107 bytes.
        let root = tempfile::Builder::new()
            .prefix("sbx-e2e-")
            .tempdir_in("/tmp")
            .unwrap();
        for dir in ["home", "tmp", "config"] {
            fs::create_dir(root.path().join(dir)).unwrap();
        }
        Self {
            root,
            programs: environment::programs(),
            cache: environment::cache(),
            ids: None,
            isolation: None,
            world: None,
            engine: None,
            _turn: turn,
        }
    }

    /// A home whose user has a container engine alone, on a port as well if one
    /// is named; `None` where the test `name` does not go on, since the daemons
    /// of engines run as root.
    pub fn with_engine(name: &str, kind: Kind, tcp: Option<u16>) -> Option<Self> {
        if !Fact::Root.holds_for(name) {
            return None;
        }
        let mut home = Self::new();
        home.has(Engine::start(kind, home.root.path(), tcp));
        Some(home)
    }

    fn has(&mut self, engine: Engine) {
        self.engine = Some(engine);
        fs::set_permissions(self.root(), fs::Permissions::from_mode(0o755)).unwrap();
        self.hand_over(&self.path());
    }

    /// That engine.
    pub fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("this home has an engine")
    }

    /// The same, to end or start it.
    pub fn engine_mut(&mut self) -> &mut Engine {
        self.engine.as_mut().expect("this home has an engine")
    }

    /// The home of an ordinary user, for a test that runs as root: `sbx` is
    /// called under that user and group, with a cache of its own.
    pub fn of_user(id: u32) -> Self {
        let mut home = Self::new();
        let root = home.root.path().to_owned();
        let own = |path: &Path| chown(path, Some(id), Some(id)).unwrap();
        let (cache, programs) = (root.join("cache"), root.join("bin"));
        for (from, to) in [(&home.cache, &cache), (&home.programs, &programs)] {
            fs::create_dir(to).unwrap();
            if to == &cache {
                fs::create_dir(to.join("entries")).unwrap();
                // Trees belong to the ids of containers of whoever made them.
                let entries = entries(&from.join("entries")).into_iter();
                for entry in entries.filter(|path| !path.contains("/tree-")) {
                    copy(Path::new(&entry), &to.join("entries"));
                }
                copy(&from.join("kernel-source.json"), to);
            } else {
                for program in ["sbx", "sbx-vmm", "sbx-guest"] {
                    copy(&from.join(program), to);
                }
            }
        }
        crate::call::host(
            "/bin/chown",
            &["-R", &format!("{id}:{id}"), cache.to_str().unwrap()],
            &root,
        );
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        for dir in ["home", "tmp", "config"] {
            own(&root.join(dir));
        }
        fs::create_dir(root.join("user")).unwrap();
        own(&root.join("user"));
        home.cache = cache;
        home.programs = programs;
        home.ids = Some(id);
        home
    }

    /// Its root: everything of this test lies below.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// What `sbx` sees as `$HOME`.
    pub fn path(&self) -> PathBuf {
        self.root().join("home")
    }

    /// Where the state of sandboxes is.
    pub fn state(&self) -> PathBuf {
        self.own_directories().join("state")
    }

    /// Where sockets are.
    pub fn runtime(&self) -> PathBuf {
        self.own_directories().join("run")
    }

    /// The cache, shared by all homes unless [`Self::use_cache`] was called.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Uses another cache.
    pub fn use_cache(&mut self, cache: PathBuf) {
        self.cache = cache;
    }

    /// Uses a cache of this home's own that lacks these kinds of entries
    /// (`kernel`, `base`, `kit`, `initramfs`); the others are links into the
    /// shared one, good for everything but starting a machine.
    pub fn cache_without(&mut self, kinds: &[&str]) {
        let (shared, own) = (self.cache.clone(), self.root().join("cache"));
        fs::create_dir_all(own.join("entries")).unwrap();
        for entry in fs::read_dir(shared.join("entries")).unwrap() {
            let (name, path) = entry.map(|e| (e.file_name(), e.path())).unwrap();
            let kind = name.to_string_lossy().into_owned();
            if !kinds.contains(&kind.split('-').next().unwrap_or_default()) {
                symlink(path, own.join("entries").join(name)).unwrap();
            }
        }
        copy(&shared.join("kernel-source.json"), &own);
        self.cache = own;
    }

    /// Uses programs of this home's own, of which one is this.
    pub fn programs_with(&mut self, name: &str, program: &[u8]) {
        let own = self.root().join("bin");
        fs::create_dir_all(&own).unwrap();
        for part in ["sbx", "sbx-vmm", "sbx-guest"] {
            copy(&self.programs.join(part), &own);
        }
        fs::write(own.join(name), program).unwrap();
        self.programs = own;
    }

    /// Mounts something where only this home's calls see it: a line for a
    /// shell that is root of a mount namespace of this home's own.
    #[track_caller]
    pub fn mounts(&mut self, line: &str) {
        self.world.get_or_insert_with(World::new).sh(line);
    }

    /// Where a path that this home's calls see is to be found from here.
    pub fn outside(&self, path: &Path) -> PathBuf {
        match &self.world {
            None => path.to_owned(),
            Some(world) => world.outside(path),
        }
    }

    /// Writes `config.toml`.
    pub fn configure(&self, toml: &str) {
        fs::write(self.root().join("config/config.toml"), toml).unwrap();
    }

    /// A new directory to work in, of the user's own.
    pub fn project(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(&path).unwrap();
        if let Some(id) = self.owner() {
            chown(&path, Some(id), Some(id)).unwrap();
        }
        path
    }

    /// Whom its projects are given to.
    fn owner(&self) -> Option<u32> {
        self.ids.or(self.engine.as_ref().map(|_| OWNER))
    }

    /// Gives what the test made below `path` to whom its projects belong.
    pub fn hand_over(&self, path: &Path) {
        if let Some(id) = self.owner() {
            let path = path.to_str().unwrap();
            let args = ["-Rh", &format!("{id}:{id}"), path];
            crate::call::host("/bin/chown", &args, self.root());
        }
    }

    /// A program of the host to its end, which must be success, called by whom
    /// its projects belong to: its output.
    #[track_caller]
    pub fn host(&self, program: &str, args: &[&str], cwd: &Path) -> String {
        let Some(id) = self.owner() else {
            return crate::call::host(program, args, cwd);
        };
        let (user, group) = (format!("--reuid={id}"), format!("--regid={id}"));
        let become_them = [&*user, &*group, "--clear-groups", "--", program];
        crate::call::host("/usr/bin/setpriv", &[&become_them, args].concat(), cwd)
    }

    /// `sbx` in the home directory.
    pub fn sbx<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Sbx {
        let own = self.own_directories();
        let program = self.programs.join("sbx");
        let call = match self.ids {
            None => Sbx::new(&program, &self.path()),
            Some(id) => Sbx::new(Path::new("/usr/bin/setpriv"), &self.path())
                .args([format!("--reuid={id}"), format!("--regid={id}")])
                .args(["--clear-groups", "--inh-caps=-all", "--"])
                .arg(&program),
        };
        let call = match self.isolation {
            None => call,
            Some(isolation) => call.env("SBX_ISOLATION", isolation.to_string()),
        };
        let call = match &self.engine {
            Some(engine) => call.env("DOCKER_HOST", engine.address()),
            None => call,
        };
        call.within_world(self.world.as_ref().map(World::entrance))
            .args(args)
            .env("HOME", self.path())
            .env("TERM", "xterm-256color")
            .env("TMPDIR", self.root().join("tmp"))
            .env("SBX_CACHE_DIR", &self.cache)
            .env("SBX_CONFIG_DIR", self.root().join("config"))
            .env("SBX_STATE_DIR", own.join("state"))
            .env("SBX_RUNTIME_DIR", own.join("run"))
    }

    /// A sandbox of the agent `shell` that is up, named `name`, in a project
    /// of the same name.
    pub fn sandbox(&self, name: &str) -> Sandbox<'_> {
        self.sandbox_with(name, &[])
    }

    /// The same, with more flags of `run`.
    pub fn sandbox_with(&self, name: &str, flags: &[&str]) -> Sandbox<'_> {
        Sandbox::up(self, name, flags)
    }

    /// What this home's sandboxes left on the host, in words.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = self.left_files();
        left.extend(self.left_in_engine());
        // The processes of an engine of its own are there as long as it is.
        if !self.engine.as_ref().is_some_and(Engine::is_own) {
            left.extend(leftovers::of(self.root()));
        }
        left
    }

    /// The same without what a sandbox keeps while it is stopped: its files, and
    /// containers of an engine that do not run.
    pub fn running(&self) -> Vec<String> {
        let mut left = self.leftovers();
        left.retain(|one| !one.starts_with("file: "));
        left.retain(|one| !one.starts_with("container of") || one.contains(" Up "));
        left
    }

    /// What a client of its engine filters by to find what its sandboxes have.
    pub fn filter(&self) -> String {
        let mark = self.mark().expect("a sandbox has been made");
        format!("label=dev.sbx.owner={mark}")
    }

    /// The mark of what its sandboxes have with an engine.
    fn mark(&self) -> Option<String> {
        fs::read_to_string(self.state().join("engine-owner")).ok()
    }

    fn left_in_engine(&self) -> Vec<String> {
        match (&self.engine, self.mark()) {
            (Some(engine), Some(mark)) => engine.left_by(&mark),
            _ => Vec::new(),
        }
    }

    fn left_files(&self) -> Vec<String> {
        let mut left = Vec::new();
        for dir in [
            self.state().join("sandboxes"),
            self.runtime(),
            self.root().join("tmp"),
        ] {
            left.extend(
                entries(&self.outside(&dir))
                    .into_iter()
                    .map(|path| format!("file: {path}")),
            );
        }
        left
    }

    /// A running process whose command line holds `text`.
    pub fn process(&self, text: &str) -> Option<Process> {
        leftovers::find(self.all_processes(), text)
    }

    /// Everything that runs for this home, in the containers of an engine too.
    fn all_processes(&self) -> Vec<Pid> {
        let mut all = leftovers::descendants();
        if let (Some(engine), Some(mark)) = (&self.engine, self.mark()) {
            all.extend(leftovers::with_descendants(&engine.processes(&mark)));
        }
        all
    }

    /// The same, waiting for it to be there: a process that is being started
    /// tells nobody, so this looks again and again.
    pub fn awaits(&self, text: &str) -> Process {
        let until = Instant::now() + START;
        loop {
            if let Some(found) = self.process(text) {
                return found;
            }
            assert!(
                Instant::now() < until,
                "no `{text}`: {:?}",
                self.processes()
            );
            std::thread::yield_now();
        }
    }

    /// The command lines of everything that runs for this home.
    pub fn processes(&self) -> Vec<String> {
        let all = self.all_processes();
        all.into_iter().map(leftovers::command_line).collect()
    }

    /// Memory that everything that runs for this home takes, shared pages
    /// counted in parts, in KiB.
    pub fn resident_kib(&self) -> u64 {
        leftovers::resident_kib(self.all_processes())
    }

    /// Shows what the sandboxes wrote down, if the test is failing.
    pub(crate) fn tell_if_failing(&self) {
        if !std::thread::panicking() || !self.outside(&self.state()).exists() {
            return;
        }
        for name in self.sbx(["ls", "-aq"]).output().text().lines() {
            eprint(&self.sbx(["logs", "-n", "60", name]).output().to_string());
        }
    }

    fn own_directories(&self) -> PathBuf {
        match self.ids {
            None => self.root().to_owned(),
            Some(_) => self.root().join("user"),
        }
    }

    /// Makes what the shared cache lacks, with the caller's own environment:
    /// packages come by the caller's own clients.
    fn prepare(&self) {
        let lacking = |agent: &str| {
            let plan = self
                .sbx(["plan", "--json", "--no-workspace", agent])
                .succeeds()
                .json();
            let steps = plan["steps"].as_array().cloned().unwrap_or_default();
            steps.iter().any(|step| {
                let what = step["what"].as_str().unwrap_or_default();
                MADE_ONCE.contains(&what) && step["cached"] != Value::Bool(true)
            })
        };
        for agent in ["shell", "claude"] {
            if !lacking(agent) {
                continue;
            }
            let mut call = self.sbx(["create", "--no-workspace", "--name", "prepare", agent]);
            for (name, value) in environment::whole() {
                call = call.env(name, value);
            }
            call.within(FROM_NOTHING).succeeds();
            self.sbx(["rm", "-f", "prepare"]).succeeds();
        }
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let mut wrong = Vec::new();
        self.tell_if_failing();
        if self.outside(&self.state()).exists() {
            let removed = self.sbx(["rm", "--force", "--all"]).output();
            if removed.code() != Some(0) {
                wrong.push(removed.to_string());
            }
        }
        wrong.extend(self.left_files());
        wrong.extend(self.left_in_engine());
        if let Some(mut engine) = self.engine.take() {
            wrong.extend(engine.let_go());
        }
        // Its shell is no leftover; whatever else is in it would show.
        self.world = None;
        wrong.extend(leftovers::of(self.root()));
        if wrong.is_empty() {
            return;
        }
        let wrong = wrong.join("\n");
        if std::thread::panicking() {
            eprint(&format!("also left over:\n{wrong}"));
        } else {
            panic!("left over:\n{wrong}");
        }
    }
}

#[expect(clippy::print_stderr, reason = "a second failure of the same test")]
fn eprint(text: &str) {
    eprintln!("{text}");
}

fn copy(from: &Path, into: &Path) {
    start(Path::new("/bin/cp"))
        .args(["-a", "--reflink=auto"])
        .arg(from)
        .arg(into)
        .status()
        .unwrap();
}

/// Everything that is not a directory below `dir`, and directories of its
/// first level.
fn entries(dir: &Path) -> Vec<String> {
    let Ok(read) = fs::read_dir(dir) else {
        return Vec::new();
    };
    read.filter_map(|entry| Some(entry.ok()?.path().display().to_string()))
        .collect()
}
