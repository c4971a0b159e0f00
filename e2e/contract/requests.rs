//! Rules about methods and paths, and whom the guest believes, with the programs that agents use.

use std::time::Duration;

use e2e::{Fact, Home, Isolation, WebServer, host, in_each_isolation, java};

in_each_isolation![
    the_requests_that_a_rule_names_pass_and_the_others_are_told_why,
    java_believes_the_authority_of_each_start_without_a_setting,
    a_package_is_installed_by_npm_where_every_request_is_looked_at,
];

/// A running sandbox that may make some requests of the server.
const ALLOWED: &str = "/ok/**";

fn the_requests_that_a_rule_names_pass_and_the_others_are_told_why(isolation: Isolation) {
    let home = Home::of(isolation);
    let server = WebServer::start(home.root());
    let resource = format!("localhost:{}", server.port());
    home.sbx(["run", "-d", "--name", "asking", "--no-workspace"])
        .args(["--memory", "768m", "shell"])
        .env("SSL_CERT_FILE", server.root())
        .succeeds();
    let allow = [
        "policy",
        "allow",
        "network",
        &resource,
        "--sandbox",
        "asking",
    ];
    home.sbx(allow)
        .args(["--method", "GET", "--path", ALLOWED])
        .succeeds();
    let url = format!("https://host.docker.internal:{}", server.port());
    let inside = |script: &str| {
        let script = script.replace("URL", &url);
        let call = home.sbx(["exec", "asking", "bash", "-c", &script]);
        call.within(Duration::from_secs(200)).succeeds().text()
    };

    for (script, path) in [
        ("curl -sS --max-time 60 URL/ok/curl", "/ok/curl"),
        (
            "python3 -c 'import urllib.request as u; print(u.urlopen(\"URL/ok/python\").read().decode())'",
            "/ok/python",
        ),
        (
            "node -e 'fetch(\"URL/ok/node\").then(r => r.text()).then(console.log)'",
            "/ok/node",
        ),
    ] {
        let said = inside(script);
        assert!(said.contains(&format!("GET {path} HTTP/1.1")), "{said}");
    }
    for (script, remedy) in [
        ("curl -sSi --max-time 60 URL/no", "--method GET --path /no"),
        (
            "curl -sSi --max-time 60 -X DELETE URL/ok/curl",
            "--method DELETE --path /ok/curl",
        ),
        (
            "node -e 'fetch(\"URL/no\").then(async r => console.log(r.status, r.headers.get(\"x-sbx-verdict\"), await r.text()))'",
            "--method GET --path /no",
        ),
    ] {
        let said = inside(script);
        assert!(said.contains("403") && said.contains("deny"), "{said}");
        let command = format!("sbx policy allow network {resource} {remedy}");
        assert!(said.contains(&command), "{said}");
    }
    let heard = server.heard();
    assert_eq!(heard.len(), 3, "{heard:?}");

    // What the command says is what the engine did.
    let check = |arguments: &[&str]| {
        let call = home.sbx(["policy", "check", "--sandbox", "asking", &resource]);
        call.args(arguments).output().code()
    };
    assert_eq!(check(&[]), Some(0));
    assert_eq!(check(&["--path", "/ok/curl"]), Some(0));
    assert_eq!(
        check(&["--path", "/ok/curl", "--method", "DELETE"]),
        Some(1)
    );
    assert_eq!(check(&["--path", "/no"]), Some(1));
    assert_eq!(check(&["--path", "/ok/../no"]), Some(1));

    // Another start has another authority, which the guest trusts by then.
    home.sbx(["stop", "asking"]).succeeds();
    home.sbx(["start", "asking"])
        .env("SSL_CERT_FILE", server.root())
        .succeeds();
    let said = inside("curl -sS --max-time 60 URL/ok/again");
    assert!(said.contains("GET /ok/again"), "{said}");
    home.sbx(["rm", "-f", "asking"]).succeeds();
}

/// Prints the body of a page, or the status and what was said with it. The
/// first handshake of a JVM on an emulated processor may take longer than the
/// endpoint waits; the next one finds its classes loaded. Whom it does not
/// believe it does not ask again.
const FETCH: &str = r#"
import java.io.*;
import java.net.*;
public class Fetch {
    public static void main(String[] arguments) throws Exception {
        for (int left = 3; ; left--) {
            try {
                var connection = (HttpURLConnection) new URL(arguments[0]).openConnection();
                int status = connection.getResponseCode();
                var body = status < 400 ? connection.getInputStream() : connection.getErrorStream();
                System.out.println(status + " " + new String(body.readAllBytes()));
                return;
            } catch (IOException broken) {
                boolean reset = broken instanceof SocketException || broken.getCause() instanceof SocketException;
                if (!reset || left == 1) throw broken;
            }
        }
    }
}
"#;

fn java_believes_the_authority_of_each_start_without_a_setting(isolation: Isolation) {
    let name = "java_believes_the_authority_of_each_start_without_a_setting";
    if !Fact::Java.holds_for(name) {
        return;
    }
    let home = Home::of(isolation);
    let server = WebServer::start(home.root());
    let app = home.project("java");
    std::fs::write(app.join("Fetch.java"), FETCH).unwrap();
    let jdk = java().unwrap();
    let compiler = jdk.join("bin/javac");
    let compile = ["--release", "11", "-nowarn", "Fetch.java"];
    host(compiler.to_str().unwrap(), &compile, &app);
    let resource = format!("localhost:{}", server.port());
    let mut flags = vec!["--memory".to_owned(), "1g".to_owned()];
    let settings = jdk.join("conf").canonicalize().unwrap();
    let outside = Some(&settings).filter(|path| !path.starts_with(&jdk));
    for path in [Some(&jdk), outside].into_iter().flatten() {
        let path = path.display();
        let mount = format!("type=bind,source={path},target={path},readonly");
        flags.extend(["--mount".to_owned(), mount]);
    }
    home.sbx(["run", "-d", "--name", "java"])
        .args(&flags)
        .arg("shell")
        .cwd(&app)
        .env("SSL_CERT_FILE", server.root())
        .succeeds();
    home.sbx(["policy", "allow", "network", &resource])
        .args(["--sandbox", "java", "--path", ALLOWED])
        .succeeds();
    let bin = jdk.join("bin");
    let inside = |script: &str| {
        let script = format!("export PATH={}:$PATH; {script}", bin.display());
        let call = home.sbx(["exec", "java", "bash", "-c", &script]).cwd(&app);
        call.within(Duration::from_secs(300)).succeeds().text()
    };
    let url = format!("https://host.docker.internal:{}", server.port());
    let fetch = |path: &str| inside(&format!("java -XX:TieredStopAtLevel=1 Fetch {url}{path}"));

    let said = fetch("/ok/java");
    assert!(said.contains("200 GET /ok/java"), "{said}");
    let said = fetch("/no");
    assert!(said.starts_with("403 sbx: this sandbox may not"), "{said}");

    home.sbx(["stop", "java"]).succeeds();
    home.sbx(["start", "java"])
        .env("SSL_CERT_FILE", server.root())
        .succeeds();
    let said = fetch("/ok/again");
    assert!(said.contains("200 GET /ok/again"), "{said}");
    // All that other programs believe, each once, and the digest is right.
    let counted = inside(
        "keytool -list -cacerts -storepass changeit 2>/dev/null | grep -c '^sbx:'; \
         grep -v '^$' /etc/ssl/certs/ca-certificates.crt | tr -d '\\n' \
         | sed 's/-----END CERTIFICATE-----/&\\n/g' | sort -u | wc -l",
    );
    let counts: Vec<&str> = counted.lines().collect();
    assert_eq!(counts[0], counts[1], "{counted}");
    home.sbx(["rm", "-f", "java"]).succeeds();
}

fn a_package_is_installed_by_npm_where_every_request_is_looked_at(isolation: Isolation) {
    if !Fact::NpmRegistry
        .holds_for("a_package_is_installed_by_npm_where_every_request_is_looked_at")
    {
        return;
    }
    let home = Home::of(isolation);
    let sandbox = home.sandbox_with("npm", &["--memory", "1g", "--network", "locked"]);
    let install = |package: &str| {
        let script = format!("npm install --no-audit --no-fund {package} >&2 && ls node_modules");
        sandbox
            .exec(["bash", "-c", &script])
            .within(Duration::from_secs(300))
            .output()
    };
    let allow = |path: &str| {
        home.sbx(["policy", "allow", "network", "**.npmjs.org:443"])
            .args(["--method", "GET", "--path", path, "--sandbox", "npm"])
            .succeeds();
    };
    allow("/is-number/**");
    let denied = install("is-odd@3.0.1");
    assert_ne!(denied.code(), Some(0), "{denied}");
    assert!(denied.errors().contains("403"), "{denied}");
    allow("/is-odd/**");
    let installed = install("is-odd@3.0.1").with_code(0);
    assert_eq!(installed.text(), "is-number\nis-odd");
}
