//! Real clients and servers of protocols that are no HTTP, most of which have
//! the server speak first: what a rule allows works as it does anywhere, what
//! none allows fails at once and is on record.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Output;

use support::bed::{Bed, bed_with};
use support::program::program;
use support::web::allowed;

/// Somebody who may do nothing, for a server that will not run as root.
const NOBODY: u32 = 65_534;

/// A bed, and a directory that both sides of it see.
struct Place {
    bed: Bed,
    directory: PathBuf,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.directory);
    }
}

impl Place {
    fn new(test: &str, rules: &[&str]) -> Option<Self> {
        let bed = bed_with(test, &allowed(rules), None)?;
        let directory = std::env::temp_dir().join(format!("sbx-{}-{test}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        Some(Self { bed, directory })
    }

    fn prepare(&self, script: &str) {
        let mut shell = program("/bin/bash");
        shell.args(["-ec", script]).current_dir(&self.directory);
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }

    /// Starts a server of the public network and waits until it listens.
    fn serve(&mut self, script: &str, port: u16) {
        let script = format!("cd {}; {script}", self.directory.display());
        self.bed
            .listener("public", &["/bin/bash", "-ec", &script], port);
    }

    /// An ssh server that lets a key of the test's in.
    fn serve_ssh(&mut self) {
        self.prepare(
            "ssh-keygen -q -t ed25519 -N '' -f host; ssh-keygen -q -t ed25519 -N '' -f own
             echo 'hello from files' > file; chmod 644 own.pub",
        );
        // Its directory for the run is in a mount namespace of its own.
        self.serve(
            "mount -t tmpfs none /run; mkdir /run/sshd
             exec /usr/sbin/sshd -D -e -f /dev/null -h \"$PWD/host\" -o ListenAddress=192.0.2.80 \
             -o AuthorizedKeysFile=\"$PWD/own.pub\" -o StrictModes=no -o PermitRootLogin=yes \
             -o PasswordAuthentication=no -o UsePAM=no -o PidFile=none -o UseDNS=no",
            22,
        );
    }

    /// Runs a script of the guest's, to which `$SSH` is a client with the key.
    fn run(&self, script: &str) -> Output {
        let here = self.directory.display();
        let script = format!(
            "cd {here}; export LC_ALL=C.UTF-8
             SSH='ssh -F none -i {here}/own -o BatchMode=yes -o StrictHostKeyChecking=no \
             -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR'; {script}"
        );
        self.bed.run(&["/bin/bash", "-ec", &script])
    }
}

/// Why a test cannot be run here; told, since a test has no other way to say
/// that it was skipped.
fn missing(test: &str, paths: &[&str]) -> bool {
    let absent = paths.iter().find(|path| !Path::new(path).exists());
    if let Some(path) = absent {
        #[expect(clippy::print_stdout, reason = "a skip says what is missing")]
        {
            println!("SKIPPED {test}: no {path}");
        }
    }
    absent.is_some()
}

fn text(output: &Output) -> String {
    let said = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}

/// Has a client do its work where a rule allows the port, and where none does.
fn tried(test: &str, port: u16, serve: &dyn Fn(&mut Place), script: &str, expected: &str) {
    let rule = format!("www.example:{port}");
    for rules in [&[rule.as_str()][..], &[]] {
        let Some(mut place) = Place::new(test, rules) else {
            return;
        };
        serve(&mut place);
        let output = place.run(script);
        let said = text(&output);
        let flow = place.bed.flow();
        assert_eq!(
            (&flow["host"], &flow["port"]),
            (&"www.example".into(), &port.into())
        );
        if rules.is_empty() {
            assert!(!output.status.success(), "{said}");
            assert_eq!(
                (&flow["verdict"], &flow["rule"]),
                (&"deny".into(), &"default:unlisted".into())
            );
        } else {
            assert!(output.status.success() && said.contains(expected), "{said}");
            assert_eq!(flow["verdict"], "allow");
        }
    }
}

const SSH: [&str; 2] = ["/usr/bin/ssh", "/usr/sbin/sshd"];

#[test]
fn ssh_runs_a_command_where_it_is_allowed() {
    if missing("ssh", &SSH) {
        return;
    }
    tried(
        "ssh",
        22,
        &Place::serve_ssh,
        "$SSH root@www.example cat \"$PWD/file\"",
        "hello from files",
    );
}

#[test]
fn git_clones_over_ssh_and_pushes_back_where_it_is_allowed() {
    if missing("gitssh", &SSH) {
        return;
    }
    let serve = |place: &mut Place| {
        place.serve_ssh();
        place.prepare("git init -q --bare -b main repository.git");
    };
    tried(
        "gitssh",
        22,
        &serve,
        "export GIT_SSH_COMMAND=$SSH
         git clone -q \"ssh://root@www.example$PWD/repository.git\" clone 2>&1
         cd clone; git checkout -q -b main; cp ../file .; git add file
         git -c user.name=a -c user.email=a@a.example commit -qm one
         git push -q origin main; git -C ../repository.git show main:file",
        "hello from files",
    );
}

#[test]
fn rsync_copies_where_it_is_allowed() {
    if missing("rsync", &[&SSH[..], &["/usr/bin/rsync"]].concat()) {
        return;
    }
    let serve = |place: &mut Place| {
        place.serve_ssh();
        place.prepare("mkdir from; for n in $(seq 200); do echo $n > from/$n; done");
    };
    tried(
        "rsync",
        22,
        &serve,
        "rsync -a -e \"$SSH\" \"root@www.example:$PWD/from/\" to; diff -r from to; echo the same",
        "the same",
    );
}

#[test]
fn psql_asks_where_it_is_allowed() {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let versions = installed.map(|entry| entry.unwrap().path().join("bin"));
    let programs = versions
        .max()
        .unwrap_or_else(|| "/usr/lib/postgresql".into());
    let server = programs.join("postgres");
    if missing("psql", &["/usr/bin/psql", server.to_str().unwrap()]) {
        return;
    }
    let serve = |place: &mut Place| {
        chown(&place.directory, Some(NOBODY), Some(NOBODY)).unwrap();
        let nobody = format!("setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups");
        let programs = programs.display();
        place.prepare(&format!(
            "{nobody} {programs}/initdb -D data -A trust -U nobody >/dev/null
             echo 'host all all 0.0.0.0/0 trust' >> data/pg_hba.conf"
        ));
        let start = format!("exec {nobody} {programs}/postgres -D data -h 192.0.2.80 -k ''");
        place.serve(&start, 5_432);
    };
    tried(
        "psql",
        5_432,
        &serve,
        "psql -h www.example -U nobody postgres -Atc 'select repeat($$ab$$, 3)'",
        "ababab",
    );
}
