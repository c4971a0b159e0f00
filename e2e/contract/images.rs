//! Images whose programs are linked otherwise than most.

use e2e::{Fact, Home, Listener};

/// A program for the C library musl, dynamically linked: it asks that for the
/// name of its user and for an address, and says what comes from there.
const MUSL: &str = r#"
mkdir -p bin lib tmp
cp "$(readlink -f /lib/ld-musl-x86_64.so.1)" lib/ld-musl-x86_64.so.1
cp /bin/busybox bin/busybox
ln -s busybox bin/sh
cat >program.c <<'C'
#include <netdb.h>
#include <pwd.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>
int main(int count, char **words) {
    struct passwd *user = getpwuid(getuid());
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *at;
    char text[200];
    puts(user ? user->pw_name : "nobody");
    fflush(stdout);
    if (count < 2 || getaddrinfo("host.sbx.internal", words[1], &hints, &at)) return 1;
    int server = socket(at->ai_family, SOCK_STREAM, 0);
    if (connect(server, at->ai_addr, at->ai_addrlen)) return 2;
    write(server, "GET / HTTP/1.0\r\n\r\n", 18);
    for (ssize_t got; (got = read(server, text, sizeof text)) > 0;) write(1, text, got);
    return 0;
}
C
musl-gcc -o bin/program program.c
rm program.c
"#;

#[test]
fn programs_of_another_c_library_have_their_names_and_network_in_an_image_of_theirs() {
    let name = "programs_of_another_c_library_have_their_names_and_network_in_an_image_of_theirs";
    if !Fact::Musl.holds_for(name) {
        return;
    }
    let Some(home) = Home::docked(name) else {
        return;
    };
    home.engine().image("musl:1", MUSL);
    let (open, shut) = (Listener::open(), Listener::open());
    let rule = format!("localhost:{}", open.port());
    let run = |port: u16| {
        let script = format!("/bin/program {port}");
        home.sbx(["run", "--rm", "--no-workspace"])
            .args([
                "-t",
                "musl:1",
                "--network",
                "locked",
                "--allow-network",
                &rule,
            ])
            .args(["shell", "--", "-c", &script])
            .output()
    };
    let out = run(open.port()).with_code(0).text();
    assert!(
        out.starts_with("agent\n") && out.ends_with("canary-sings"),
        "{out}"
    );
    let denied = run(shut.port());
    assert!(!denied.text().contains("canary-sings"), "{denied}");
    assert_eq!(shut.visits(), 0);
}
