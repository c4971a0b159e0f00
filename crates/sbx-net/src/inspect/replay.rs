//! One hostile input through the readers of HTTP, for fuzz targets and the
//! tests that replay their corpora. Nothing is dialled.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use sbx_spec::{Action, DnsName, Origin, Protocol, Rule};
use tokio::io::{AsyncWriteExt, DuplexStream, copy, duplex, sink, split};

use super::body::Input;
use super::case::{Case, Scheme};
use super::head::{Request, Response};
use super::http2;
use super::reports::Reports;
use crate::gate::{Gate, Intent};
use crate::names::Names;

/// Reads messages as a relay does, first as requests and then as answers to a
/// plain one. What is read has to be read the same once it is written.
pub(crate) fn http1(bytes: &[u8]) -> bool {
    let requests = async {
        let mut input = Input::new(bytes);
        let mut count = 0;
        while let Some(head) = input.head().await.ok()? {
            let request = Request::read(&head).ok()?;
            let again = Request::read(&request.written());
            (again.as_ref() == Ok(&request)).then_some(())?;
            input
                .body(request.length, &mut tokio::io::sink())
                .await
                .ok()?;
            count += 1;
        }
        (count > 0).then_some(())
    };
    let answers = async {
        let asked = Request::read(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").ok()?;
        let mut input = Input::new(bytes);
        let mut count = 0;
        while let Some(head) = input.head().await.ok()? {
            let answer = Response::read(&head, &asked).ok()?;
            input
                .body(answer.length, &mut tokio::io::sink())
                .await
                .ok()?;
            count += 1;
        }
        (count > 0).then_some(())
    };
    // Neither waits: the bytes are there.
    let mut context = Context::from_waker(Waker::noop());
    let whole = |work: Poll<Option<()>>| matches!(work, Poll::Ready(Some(())));
    whole(pin!(requests).poll(&mut context)) || whole(pin!(answers).poll(&mut context))
}

/// Serves a guest that says this in HTTP/2 and nothing more, before a server
/// that answers whatever reaches it. The guest may `GET` what is below `/ok`
/// of `a.example`. Returns whether a request came through.
pub(crate) fn http2(bytes: &[u8]) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let (Ok(runtime), Some((gate, case))) = (runtime, case()) else {
        return false;
    };
    let reached = Arc::new(AtomicBool::new(false));
    runtime.block_on(async {
        let (guest, its) = duplex(PIPE);
        let (server, theirs) = duplex(PIPE);
        tokio::spawn(answer(theirs, Arc::clone(&reached)));
        let (mut hears, mut says) = split(its);
        tokio::spawn(async move { copy(&mut hears, &mut sink()).await });
        let said = async {
            // Whoever does not listen to the end has closed it.
            let _closed = says.write_all(bytes).await;
            // What it asked for would end with it.
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
            let _closed = says.shutdown().await;
        };
        let relay = http2::relay(Arc::new(case), guest, server);
        let (_, _ended) = tokio::join!(said, relay);
    });
    drop(gate);
    reached.load(Ordering::Relaxed)
}

/// How often everyone else gets a turn before the guest closes: more than a
/// request takes from there to the server.
const TURNS: usize = 64;

/// Bytes on their way between two who talk.
const PIPE: usize = 64 * 1024;

/// The gate has to last as long as the case.
pub(super) fn case() -> Option<(Gate, Case)> {
    let mut gate = Gate::default();
    let rule = Rule::read(Action::Allow, "a.example:443 GET /ok/**", Origin::User).ok()?;
    gate.replace_rules(vec![rule]);
    let name: DnsName = "a.example".parse().ok()?;
    let mut names = Names::default();
    let address = IpAddr::V4(names.address(&name)?);
    let intent = Intent::new(Protocol::Tcp, address, 443, &names);
    let case = Case {
        judge: gate.judge_of_requests(),
        flow: intent.dialled([192, 0, 2, 1].into()),
        intent,
        approved: Mutex::default(),
        scheme: Scheme::Https,
        id: 1,
        reports: Arc::new(Reports::new().ok()?),
    };
    Some((gate, case))
}

async fn answer(stream: DuplexStream, reached: Arc<AtomicBool>) {
    let Ok(mut server) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((_, mut respond))) = server.accept().await {
        reached.store(true, Ordering::Relaxed);
        let _gone = respond.send_response(http::Response::new(()), true);
    }
}
