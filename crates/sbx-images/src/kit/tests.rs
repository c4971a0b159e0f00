//! Tests of the kits of this version.

use sbx_spec::{EnvVar, GuestPath};

use super::*;
use crate::progress::Silent;

fn kit(name: &str) -> Kit {
    Kit::named(&name.parse().unwrap()).unwrap().unwrap()
}

fn npm(kit: &Kit) -> &NpmPackage {
    &kit.install.as_ref().unwrap().npm
}

#[test]
fn every_kit_is_well_formed_and_pinned() {
    for name in Kit::names() {
        let kit = kit(name);
        assert_eq!(kit.name.as_str(), name);
        assert!(kit.start[0].starts_with('/'), "{name}");
        if let Some(install) = &kit.install {
            assert!(install.npm.integrity.starts_with("sha512-"), "{name}");
            assert!(
                install
                    .npm
                    .version
                    .starts_with(|c: char| c.is_ascii_digit()),
                "{name}"
            );
            assert_eq!(
                kit.start[0],
                format!("/opt/sbx/kits/{name}/{}", install.npm.install_as)
            );
        }
    }
    assert!(Kit::named(&"nobody".parse().unwrap()).unwrap().is_none());
}

#[test]
fn user_arguments_come_last_and_a_flag_once() {
    let shell = kit("shell").command(true, &["-c".to_owned(), "make test".to_owned()]);
    assert_eq!(shell, ["/bin/bash", "-l", "-c", "make test"]);
    let flag = "--dangerously-skip-permissions".to_owned();
    let claude = kit("claude");
    assert_eq!(
        claude.command(true, &["-p".to_owned()])[1..],
        [flag.clone(), "-p".to_owned()]
    );
    assert_eq!(
        claude.command(true, std::slice::from_ref(&flag))[1..],
        [flag]
    );
    assert_eq!(claude.command(false, &[]).len(), 1);
}

#[test]
fn claude_is_told_what_it_would_ask() {
    let workdir = GuestPath::new("/home/me/\"app\"").unwrap();
    let value = "sk-ant-0123456789abcdefghijklmnop".to_owned();
    let env = [EnvVar {
        name: "ANTHROPIC_API_KEY".to_owned(),
        value,
    }];
    let context = HomeContext {
        workdir: &workdir,
        env: &env,
    };
    let files = kit("claude").home_files(&context).unwrap();
    assert_eq!(files.len(), 1);
    assert_eq!(
        (files[0].path.as_str(), files[0].mode),
        (".claude.json", 0o600)
    );
    let json: serde_json::Value = serde_json::from_slice(&files[0].content).unwrap();
    assert_eq!(
        json["projects"]["/home/me/\"app\""]["hasTrustDialogAccepted"],
        true
    );
    assert_eq!(
        json["customApiKeyResponses"]["approved"][0],
        "6789abcdefghijklmnop"
    );
    assert!(!String::from_utf8_lossy(&files[0].content).contains("sk-ant"));

    let without = HomeContext {
        workdir: &workdir,
        env: &[],
    };
    let files = kit("claude").home_files(&without).unwrap();
    assert!(!String::from_utf8_lossy(&files[0].content).contains("customApiKey"));
    assert!(kit("shell").home_files(&without).unwrap().is_empty());
}

#[test]
fn a_kit_without_a_program_fetches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path()).unwrap();
    let host = Host::new("/x".into(), None, []);
    assert_eq!(kit("shell").image(&cache, &host, &Silent).unwrap(), None);
    assert!(cache.list().unwrap().is_empty());
}

#[test]
fn an_archive_that_is_not_the_pinned_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tgz");
    let mut npm = npm(&kit("claude")).clone();
    std::fs::write(&path, b"abc").unwrap();
    assert!(matches!(
        fetch::verify(&npm, &path),
        Err(Error::Integrity { .. })
    ));
    npm.size = 3;
    assert!(matches!(
        fetch::verify(&npm, &path),
        Err(Error::Integrity { .. })
    ));
    npm.integrity = "sha512-3a81oZNherrMQXNJriBBMRLm+k6JqX6iCp7u5ktV05ohkpkqJ0/BqDa6PCOj/uu9\
                     RU1EI2Q86A4qmslPpUyknw=="
        .to_owned();
    fetch::verify(&npm, &path).unwrap();
    let link = dir.path().join("link.tgz");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(fetch::verify(&npm, &link).is_err());
}
