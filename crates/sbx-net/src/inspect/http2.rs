//! HTTP/2 between a guest and a server: as many requests at once as both
//! like, each judged before any of it goes on.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use super::case::{Asked, Case, Page};
use super::http1::Ended;
use super::page;
use crate::limits;

/// Serves requests until one side ends.
pub(super) async fn relay<G, S>(case: Arc<Case>, guest: G, server: S) -> Ended
where
    G: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let head = u32::try_from(limits::HTTP_HEAD).unwrap_or(u32::MAX);
    let mut client = h2::client::Builder::new();
    client
        .enable_push(false)
        .initial_window_size(limits::HTTP2_WINDOW)
        .initial_connection_window_size(limits::HTTP2_WINDOW)
        .max_header_list_size(head)
        .max_send_buffer_size(limits::HTTP2_SEND);
    let Ok((mut requests, to_server)) = client.handshake::<_, Bytes>(server).await else {
        return Ended::Broken;
    };
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits::HTTP2_GUEST_WINDOW)
        .initial_connection_window_size(limits::HTTP2_GUEST_WINDOW)
        .max_concurrent_streams(limits::HTTP2_STREAMS)
        .max_header_list_size(head)
        .max_send_buffer_size(limits::HTTP2_SEND);
    let Ok(mut guest) = builder.handshake::<_, Bytes>(guest).await else {
        return Ended::Broken;
    };
    // Everything that is on its way ends with this set.
    let mut works = JoinSet::new();
    works.spawn(async move {
        let _ended = to_server.await;
        Work::Server
    });
    loop {
        // A request that its guest took back counts no more for the protocol,
        // and is still here until its task has ended.
        let full = works.len() > limits::HTTP2_STREAMS as usize;
        tokio::select! {
            accepted = next(&mut guest, full) => match accepted {
                Some(Ok((request, mut respond))) => {
                    if let Poll::Ready(Err(_)) = poll_fn(|cx| Poll::Ready(requests.poll_ready(cx))).await {
                        respond.send_reset(Reason::REFUSED_STREAM);
                        continue;
                    }
                    let (case, requests) = (Arc::clone(&case), requests.clone());
                    works.spawn(async move {
                        serve(&case, request, respond, requests).await;
                        Work::Request
                    });
                }
                None => return Ended::Orderly,
                Some(Err(_)) => return Ended::Broken,
            },
            Some(done) = works.join_next() => if let Ok(Work::Server) = done {
                // No new requests; those that are whole are still answered.
                guest.graceful_shutdown();
            },
        }
    }
}

/// The next request; none of them while there are enough.
async fn next<G>(
    guest: &mut h2::server::Connection<G, Bytes>,
    full: bool,
) -> Option<Result<(Request<RecvStream>, SendResponse<Bytes>), h2::Error>>
where
    G: AsyncRead + AsyncWrite + Unpin,
{
    if !full {
        return guest.accept().await;
    }
    // Those on their way go on.
    match poll_fn(|cx| guest.poll_closed(cx)).await {
        Ok(()) => None,
        Err(error) => Some(Err(error)),
    }
}

/// What has ended.
enum Work {
    /// The connection to the server.
    Server,
    /// A request.
    Request,
}

async fn serve(
    case: &Case,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    requests: SendRequest<Bytes>,
) {
    let judged = tokio::select! {
        judged = judge(case, &request) => judged,
        // Taken back while the user was asked.
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
    };
    let asked = match judged {
        Ok(asked) => asked,
        Err(page) => {
            case.refused(&page);
            page::tell(&page, &mut respond);
            return;
        }
    };
    let reset = tokio::select! {
        reset = carry(request, &mut respond, requests) => reset,
        () = case.objection(&asked) => Some(Reason::REFUSED_STREAM),
    };
    if let Some(reason) = reset {
        respond.send_reset(reason);
    }
}

async fn judge(case: &Case, request: &Request<RecvStream>) -> Result<Asked, Page> {
    let (uri, method) = (request.uri(), request.method());
    if *method == Method::CONNECT {
        return Err(Page::malformed("CONNECT, which is for proxies"));
    }
    if uri.scheme_str() != Some(case.scheme.name()) {
        return Err(Page::malformed("a scheme that is not the connection's"));
    }
    let mut hosts = request.headers().get_all(http::header::HOST).iter();
    let authority = uri.authority().map(http::uri::Authority::as_str);
    let agrees =
        |host: &http::HeaderValue| authority.is_none_or(|said| host.as_bytes() == said.as_bytes());
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() || first.is_some_and(|host| !agrees(host)) {
        return Err(Page::malformed("a Host field beside another authority"));
    }
    let target = uri
        .path_and_query()
        .map_or("", http::uri::PathAndQuery::as_str);
    case.judge(method.as_str(), target, authority).await
}

/// Carries a request that is allowed, and its answer; the reason of a reset
/// where it did not come to its end.
async fn carry(
    request: Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
    requests: SendRequest<Bytes>,
) -> Option<Reason> {
    let reason = |error: h2::Error| error.reason().unwrap_or(Reason::INTERNAL_ERROR);
    let (mut parts, body) = request.into_parts();
    // Said by `:authority` already.
    parts.headers.remove(http::header::HOST);
    let whole = body.is_end_stream();
    let mut requests = match requests.ready().await {
        Ok(requests) => requests,
        Err(_) => return Some(Reason::REFUSED_STREAM),
    };
    let (mut answer, to_server) = match requests.send_request(Request::from_parts(parts, ()), whole)
    {
        Ok(sent) => sent,
        Err(error) => return Some(reason(error)),
    };
    drop(requests);
    let sending = async {
        if !whole {
            // A server may answer without hearing all of it.
            let _handed = hand_on(body, to_server).await?;
        }
        Ok::<_, h2::Error>(())
    };
    let answering = async {
        loop {
            let interim = tokio::select! {
                interim = poll_fn(|cx| answer.poll_informational(cx)) => interim,
                reset = poll_fn(|cx| respond.poll_reset(cx)) => return Err(reset?.into()),
            };
            let Some(interim) = interim else { break };
            respond.send_informational(interim?)?;
        }
        let answer = tokio::select! {
            answer = &mut answer => answer?,
            reset = poll_fn(|cx| respond.poll_reset(cx)) => return Err(reset?.into()),
        };
        let (parts, body) = answer.into_parts();
        let whole = body.is_end_stream();
        let to_guest = respond.send_response(Response::from_parts(parts, ()), whole)?;
        if whole {
            return Ok(());
        }
        match hand_on(body, to_guest).await? {
            Handed::Whole => Ok(()),
            Handed::TakenBack(reason) => Err(reason.into()),
        }
    };
    tokio::pin!(sending, answering);
    let mut sent = false;
    loop {
        tokio::select! {
            done = &mut sending, if !sent => match done {
                Ok(()) => sent = true,
                // A server may answer without hearing all of it.
                Err(error) if error.is_reset() && error.is_remote() => sent = true,
                Err(error) => return Some(reason(error)),
            },
            done = &mut answering => return match done {
                Ok(()) if sent => None,
                Ok(()) => Some(Reason::NO_ERROR),
                Err(error) => Some(reason(error)),
            },
        }
    }
}

/// How far a body came.
enum Handed {
    /// To its end.
    Whole,
    /// As far as it was wanted: the stream was reset by who hears.
    TakenBack(Reason),
}

/// Hands a body and its trailers on, as fast as the slower side takes it.
async fn hand_on(mut from: RecvStream, mut to: SendStream<Bytes>) -> Result<Handed, h2::Error> {
    loop {
        let data = tokio::select! {
            data = from.data() => data,
            reset = poll_fn(|cx| to.poll_reset(cx)) => return Ok(Handed::TakenBack(reset?)),
        };
        let Some(data) = data else { break };
        let mut data = data?;
        let count = data.len();
        while !data.is_empty() {
            to.reserve_capacity(data.len());
            let room = match poll_fn(|cx| to.poll_capacity(cx)).await {
                Some(room) => room?,
                None => return Err(Reason::CANCEL.into()),
            };
            let part = data.split_to(room.min(data.len()));
            to.send_data(part, false)?;
        }
        from.flow_control().release_capacity(count)?;
    }
    match from.trailers().await? {
        Some(trailers) => to.send_trailers(trailers)?,
        None => to.send_data(Bytes::new(), true)?,
    }
    Ok(Handed::Whole)
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::super::replay;
    use super::*;

    /// Answers what is about the last of things, and holds the rest.
    async fn server(stream: tokio::io::DuplexStream) {
        let mut held = Vec::new();
        let mut server = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = server.accept().await {
            if request.uri().path() == "/ok/last" {
                respond.send_response(Response::new(()), true).unwrap();
            } else {
                held.push(respond);
            }
        }
    }

    #[test]
    fn requests_that_were_taken_back_make_room_for_others() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let (_gate, case) = replay::case().unwrap();
        runtime.block_on(async {
            let (guest, its) = duplex(1 << 16);
            let (near, far) = duplex(1 << 16);
            tokio::spawn(server(far));
            tokio::spawn(async move {
                let _ended = relay(Arc::new(case), guest, near).await;
            });
            let (mut requests, connection) = h2::client::handshake(its).await.unwrap();
            tokio::spawn(connection);
            let ask = |path: &str| {
                let uri = format!("https://a.example/ok/{path}");
                Request::get(uri).body(()).unwrap()
            };
            for _ in 0..3 * limits::HTTP2_STREAMS {
                requests = requests.ready().await.unwrap();
                let (answer, mut body) = requests.send_request(ask("held"), false).unwrap();
                // It is on its way before it is taken back.
                for _ in 0..32 {
                    tokio::task::yield_now().await;
                }
                body.send_reset(Reason::CANCEL);
                drop(answer);
            }
            requests = requests.ready().await.unwrap();
            let (answer, _) = requests.send_request(ask("last"), true).unwrap();
            assert_eq!(answer.await.unwrap().status(), 200);
        });
    }
}
