//! How rules reach sandboxes that run.

use serde_json::{Value, json};
use tokio::task::yield_now;

use super::super::fake::{Host, host, nobody};
use super::super::start::Stay;
use super::*;
use crate::command::Entered;

/// Writes a policy as a hand would: nobody is told.
fn written(host: &Host, text: &str) {
    write(&host.engine.directories.config.join(FILE), text).unwrap();
}

fn taken(_: &Value) -> Result<Value, String> {
    Ok(json!({ "cut": 0 }))
}

#[tokio::test]
async fn a_start_tells_nothing_older_than_what_an_edit_told() {
    let host = host();
    let sandbox = host.sandbox("box");
    let (_proof, calls) = host.running(&sandbox, taken);
    written(&host, "preset = \"locked\"\n");
    let edit = host.engine.policy_lock().await.unwrap();
    let refreshing = host.engine.refresh_policy(&sandbox, None);
    tokio::pin!(refreshing);
    // As far as it comes while somebody edits.
    tokio::select! {
        biased;
        done = &mut refreshing => panic!("{done:?}"),
        () = yield_now() => {}
    }
    written(&host, "preset = \"locked\"\ndeny = [\"b.example\"]\n");
    let spec = sandbox.record().unwrap().spec;
    let newest = host.engine.effective(Some((&sandbox, &spec))).unwrap();
    host.engine.make_known(&sandbox, &newest).await.unwrap();
    drop(edit);
    refreshing.await.unwrap();
    let calls = calls.lock();
    assert_eq!(calls.len(), 2);
    for call in calls.iter() {
        assert!(call.to_string().contains("b.example"), "{call}");
    }
}

#[tokio::test]
async fn a_session_in_a_running_sandbox_begins_by_the_rules_that_are_written() {
    let host = host();
    let sandbox = host.sandbox("box");
    let (_proof, calls) = host.running(&sandbox, taken);
    written(&host, "preset = \"locked\"\ndeny = [\"b.example\"]\n");
    let up = host
        .engine
        .bring_up(&sandbox, Stay::WhileUsed, &mut nobody())
        .await;
    assert!(matches!(up.unwrap(), (Entered::Joined, None)));
    let calls = calls.lock();
    assert!(calls[0]["policy"].to_string().contains("b.example"));
}

#[tokio::test]
async fn no_session_begins_where_the_rules_are_not_taken() {
    let host = host();
    let sandbox = host.sandbox("box");
    let refused = |_: &Value| Err("does not take its rules".to_owned());
    let (_proof, _calls) = host.running(&sandbox, refused);
    let up = host
        .engine
        .bring_up(&sandbox, Stay::WhileUsed, &mut nobody())
        .await;
    let error = up.map(drop).unwrap_err();
    assert!(error.message.contains("does not take"), "{error}");
}

#[tokio::test]
async fn what_a_kit_wants_under_locked_is_listed_and_not_in_force() {
    let host = host();
    written(&host, "preset = \"locked\"\n");
    let mut spec = host.sandbox("box").record().unwrap().spec;
    (spec.name, spec.kit) = ("agent".parse().unwrap(), "claude".parse().unwrap());
    host.engine.store().create(&spec).unwrap();
    let listed = || match host.engine.list_policy(Some(&spec.name)) {
        Ok(Reply::PolicyList(listed)) => listed,
        other => panic!("{other:?}"),
    };
    let wanted = listed().wanted;
    assert!(!wanted.is_empty() && listed().rules.is_empty());
    assert!(wanted.iter().all(|rule| rule.origin == "kit:claude"));
    let accepted = Rule::new(
        sbx_spec::Action::Allow,
        wanted[0].resource.clone(),
        Origin::Sandbox,
    );
    let scope = PolicyScope::Sandbox(spec.name.clone());
    let edits = [PolicyEdit::Add(accepted.unwrap())];
    host.engine.edit_policy(&scope, &edits).await.unwrap();
    assert_eq!(listed().wanted, wanted[1..]);
    assert_eq!(listed().rules.len(), 1);
}
