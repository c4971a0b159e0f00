//! Real clients on the engine, with no proxy settings: what a rule allows
//! works as it does anywhere, in TLS that passes untouched and in TLS that is
//! looked into; what none allows fails at once and says which rule.
//!
//! Registries and repositories are stand-ins: files that a server of the
//! test's own network serves.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use sbx_spec::Rule;
use support::bed::{Bed, bed_with, python};
use support::program::program;
use support::web::{allowed, certificates};

/// Serves a directory, in TLS where it has a certificate.
const SERVER: &str = "
import http.server, os, ssl, sys
address, port, root, certificate, key = sys.argv[1:6]
os.chdir(root)
class Files(http.server.SimpleHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer((address, int(port)), Files)
if certificate:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
print('up', flush=True)
server.serve_forever()
";

/// A bed with a server of files, in TLS at `www.example` and in clear at its
/// port 8000.
struct Shelf {
    bed: Bed,
    directory: PathBuf,
}

impl Drop for Shelf {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.directory);
    }
}

impl Shelf {
    fn start(test: &str, rules: &[Rule], fill: &dyn Fn(&Path)) -> Option<Self> {
        let directory = std::env::temp_dir().join(format!("sbx-{}-{test}", std::process::id()));
        let root = directory.join("files");
        fs::create_dir_all(&root).unwrap();
        fs::create_dir(directory.join("home")).unwrap();
        certificates(&directory);
        fs::write(root.join("hello"), "hello from files\n").unwrap();
        fill(&root);
        let believed = directory.join("root.pem");
        let Some(bed) = bed_with(test, rules, Some(&believed)) else {
            fs::remove_dir_all(&directory).unwrap();
            return None;
        };
        let mut shelf = Self { bed, directory };
        let python = python().unwrap();
        let path = |name: &str| shelf.directory.join(name).to_str().unwrap().to_owned();
        let (root, leaf, key) = (path("files"), path("leaf.pem"), path("key.pem"));
        for (port, leaf, key) in [
            ("443", &leaf, &key),
            ("8000", &String::new(), &String::new()),
        ] {
            let argv = [python.to_str().unwrap(), "-c", SERVER, "192.0.2.80", port];
            let argv = [&argv[..], &[&root, leaf, key]].concat();
            drop(shelf.bed.server("public", &argv));
        }
        // What a sandbox trusts: its authority, and what the host does.
        let bundle = [shelf.bed.trusted(), believed].map(|path| fs::read_to_string(path).unwrap());
        fs::write(shelf.trusted(), bundle.concat()).unwrap();
        Some(shelf)
    }

    fn trusted(&self) -> PathBuf {
        self.directory.join("trusted.pem")
    }

    /// Runs a script of the guest's, which finds `$TRUSTED` and a home.
    fn run(&self, script: &str) -> Output {
        let trusted = self.trusted();
        let trusted = trusted.to_str().unwrap();
        let mut argv = vec!["/usr/bin/env".to_owned()];
        for name in [
            "TRUSTED",
            "SSL_CERT_FILE",
            "CURL_CA_BUNDLE",
            "GIT_SSL_CAINFO",
            "NODE_EXTRA_CA_CERTS",
            "PIP_CERT",
            "CARGO_HTTP_CAINFO",
        ] {
            argv.push(format!("{name}={trusted}"));
        }
        argv.push(format!("HOME={}", self.directory.join("home").display()));
        argv.push("LC_ALL=C.UTF-8".to_owned());
        argv.extend(["bash", "-ec"].map(str::to_owned));
        argv.push(format!("cd \"$HOME\"; {script}"));
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        self.bed.run(&argv)
    }
}

/// Why `program` cannot be tried; told, since a test has no other way to say
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

/// Has a client do its work where it may and where it may not.
fn tried(
    test: &str,
    needs: &[&str],
    fill: &dyn Fn(&Path),
    script: &str,
    (expected, refused): (&str, &str),
) {
    if missing(test, needs) {
        return;
    }
    for (way, rules) in [
        ("spliced", &["www.example:443"][..]),
        ("inspected", &["www.example:443 GET,HEAD /**"]),
    ] {
        let Some(shelf) = Shelf::start(test, &allowed(rules), fill) else {
            return;
        };
        let output = shelf.run(script);
        let said = text(&output);
        assert!(
            output.status.success() && said.contains(expected),
            "{way}: {said}"
        );
    }
    let denied = Shelf::start(test, &[], fill).unwrap();
    let output = denied.run(script);
    let said = text(&output);
    assert!(
        !output.status.success() && said.contains(refused),
        "denied: {said}"
    );
}

fn text(output: &Output) -> String {
    let said = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}

fn nothing(_: &Path) {}

/// Runs a host's program that prepares files.
fn prepare(directory: &Path, script: &str) {
    let output = program("/bin/bash")
        .args(["-ec", script])
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn wget_fetches_what_is_allowed() {
    tried(
        "wget",
        &["/usr/bin/wget"],
        &nothing,
        "wget -qO- --ca-certificate=\"$TRUSTED\" https://www.example/hello 2>&1 || \
         { wget -O- --ca-certificate=\"$TRUSTED\" https://www.example/hello; exit 1; }",
        ("hello from files", "default:unlisted"),
    );
}

#[test]
fn git_clones_what_is_allowed() {
    let repository = |root: &Path| {
        prepare(
            root,
            "git init -q -b main made; cd made; echo inside > file; git add file
             git -c user.name=a -c user.email=a@a.example commit -qm one
             cd ..; git clone -q --bare made repository.git
             git -C repository.git update-server-info",
        );
    };
    tried(
        "git",
        &["/usr/bin/git"],
        &repository,
        "git clone -q https://www.example/repository.git clone && cat clone/file",
        ("inside", "default:unlisted"),
    );
}

#[test]
fn pip_downloads_what_is_allowed() {
    let index = |root: &Path| {
        prepare(
            root,
            "mkdir -p simple/toy; cd simple/toy
             /usr/bin/python3 - <<'EOF'
import zipfile
name = 'toy-1.0-py3-none-any.whl'
with zipfile.ZipFile(name, 'w') as wheel:
    wheel.writestr('toy.py', 'x = 1')
    wheel.writestr('toy-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: toy\\nVersion: 1.0\\n')
    wheel.writestr('toy-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr('toy-1.0.dist-info/RECORD', '')
open('index.html', 'w').write(f'<a href=\"{name}\">{name}</a>')
EOF",
        );
    };
    tried(
        "pip",
        &["/usr/bin/python3", "/usr/lib/python3/dist-packages/pip"],
        &index,
        "/usr/bin/python3 -m pip download --no-deps --retries 0 --no-cache-dir -vv \
         -i https://www.example/simple/ toy",
        (
            "Successfully downloaded toy",
            "403 Client Error: Forbidden (default:unlisted)",
        ),
    );
}

#[test]
fn npm_packs_what_is_allowed() {
    let registry = |root: &Path| {
        prepare(
            root,
            "mkdir -p npm package; echo '{\"name\":\"toy\",\"version\":\"1.0.0\"}' > package/package.json
             tar czf npm/toy-1.0.0.tgz package
             cat > npm/toy <<'EOF'
{\"name\":\"toy\",\"dist-tags\":{\"latest\":\"1.0.0\"},\"versions\":{\"1.0.0\":{\"name\":\"toy\",\"version\":\"1.0.0\",
\"dist\":{\"tarball\":\"https://www.example/npm/toy-1.0.0.tgz\"}}}}
EOF",
        );
    };
    tried(
        "npm",
        &["/usr/bin/npm"],
        &registry,
        "npm pack toy --registry https://www.example/npm/ --fetch-retries 0 --cafile \"$TRUSTED\"",
        ("toy-1.0.0.tgz", "default:unlisted"),
    );
}

#[test]
fn node_fetches_what_is_allowed() {
    tried(
        "node",
        &["/usr/bin/node"],
        &nothing,
        "node -e 'fetch(\"https://www.example/hello\").then(async answer => { \
         console.log(answer.status, await answer.text()); process.exit(answer.ok ? 0 : 1) })'",
        ("hello from files", "default:unlisted"),
    );
}

#[test]
fn python_reads_what_is_allowed() {
    tried(
        "python",
        &["/usr/bin/python3"],
        &nothing,
        "/usr/bin/python3 -c 'import urllib.request as u; \
         print(u.urlopen(\"https://www.example/hello\").read().decode())'",
        ("hello from files", "default:unlisted"),
    );
}

#[test]
fn cargo_fetches_what_is_allowed() {
    let Some(cargo) = option_env!("CARGO") else {
        return;
    };
    let registry = |root: &Path| {
        prepare(
            root,
            "mkdir -p index/3/t crates toy-1.0.0/src
             printf '[package]\\nname = \"toy\"\\nversion = \"1.0.0\"\\nedition = \"2021\"\\n' > toy-1.0.0/Cargo.toml
             touch toy-1.0.0/src/lib.rs
             tar czf crates/toy-1.0.0.crate toy-1.0.0
             sum=$(sha256sum crates/toy-1.0.0.crate | cut -d' ' -f1)
             echo '{\"dl\":\"https://www.example/crates/{crate}-{version}.crate\"}' > index/config.json
             printf '{\"name\":\"toy\",\"vers\":\"1.0.0\",\"deps\":[],\"cksum\":\"%s\",\"features\":{},\"yanked\":false}\\n' $sum > index/3/t/toy",
        );
    };
    let script = format!(
        "mkdir app; cd app
         mkdir src .cargo; echo 'fn main() {{}}' > src/main.rs
         printf '[package]\\nname = \"app\"\\nversion = \"0.1.0\"\\nedition = \"2021\"\\n[dependencies]\\ntoy = {{ version = \"1\", registry = \"own\" }}\\n' > Cargo.toml
         printf '[registries.own]\\nindex = \"sparse+https://www.example/index/\"\\n[net]\\nretry = 0\\n' > .cargo/config.toml
         PATH=$(dirname {cargo}):$PATH CARGO_HOME=\"$HOME/cargo\" {cargo} fetch"
    );
    tried(
        "cargo",
        &[cargo],
        &registry,
        &script,
        ("Downloaded toy v1.0.0", "default:unlisted"),
    );
}

#[test]
fn apt_updates_from_what_is_allowed() {
    let repository = |root: &Path| {
        prepare(
            root,
            "mkdir apt; printf 'Package: toy\\nVersion: 1.0\\nArchitecture: all\\nMaintainer: a <a@a.example>\\nDescription: toy\\nFilename: ./toy.deb\\nSize: 1\\n\\n' > apt/Packages",
        );
    };
    let script = "mkdir -p state/lists/partial cache/archives/partial
        echo 'deb [trusted=yes] https://www.example/ apt/' > sources.list
        apt=(-o Dir::Etc::sourcelist=$PWD/sources.list -o Dir::Etc::sourceparts=- \
             -o Dir::State=$PWD/state -o Dir::Cache=$PWD/cache -o APT::Sandbox::User=root \
             -o Acquire::https::CAInfo=$TRUSTED -o Acquire::Retries=0 \
             -o APT::Update::Error-Mode=any -o Dir::State::status=/dev/null)
        apt-get \"${apt[@]}\" update; apt-cache \"${apt[@]}\" policy toy";
    tried(
        "apt",
        &["/usr/bin/apt-get", "/usr/lib/apt/methods/https"],
        &repository,
        script,
        ("Candidate: 1.0", "default:unlisted"),
    );
}

#[test]
fn java_reads_what_is_allowed() {
    let script = r#"cat > Fetch.java <<'EOF'
import java.net.URI;
import java.net.http.*;
public class Fetch {
    public static void main(String[] arguments) throws Exception {
        var request = HttpRequest.newBuilder(URI.create("https://www.example/hello")).build();
        var answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        System.out.println(answer.statusCode() + " " + answer.body());
        System.exit(answer.statusCode() == 200 ? 0 : 1);
    }
}
EOF
        csplit -sz -f part- "$TRUSTED" '/-----BEGIN/' '{*}'
        for part in part-*; do
            keytool -importcert -noprompt -keystore trusted.jks -storepass changeit -alias $part -file $part 2>/dev/null
        done
        java -Djavax.net.ssl.trustStore=trusted.jks -Djavax.net.ssl.trustStorePassword=changeit Fetch.java"#;
    tried(
        "java",
        &["/usr/bin/java", "/usr/bin/keytool"],
        &nothing,
        script,
        ("hello from files", "default:unlisted"),
    );
}
