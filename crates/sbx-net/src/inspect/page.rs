//! An answer of the endpoint's own, in the protocol that the guest speaks.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::authority::Offer;
use super::body::Input;
use super::case::Page;
use crate::limits;

/// Says whose verdict it is, for programs.
const VERDICT: &str = "x-sbx-verdict";

/// Answers the next request on `stream` with `page`, whatever it asks, and
/// closes. False when there was none, or it was not HTTP.
pub(super) async fn answer<S>(page: &Page, stream: S, offer: Offer) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if offer == Offer::Http2 {
        return http2(page, stream).await;
    }
    let (input, mut output) = tokio::io::split(stream);
    let mut input = Input::new(input);
    let Ok(Some(head)) = input.head().await else {
        return false;
    };
    let is_request = head.first().is_some_and(u8::is_ascii_uppercase);
    is_request && http1(page, &mut input, &mut output, head.starts_with(b"HEAD ")).await
}

/// Answers in HTTP/1 and closes; the body is left out for HEAD. False when it
/// could not be said.
pub(super) async fn http1<R, W>(
    page: &Page,
    input: &mut Input<R>,
    output: &mut W,
    is_head: bool,
) -> bool
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Page { text, .. } = page;
    let status = status(page);
    let verdict = if page.is_verdict() {
        "X-Sbx-Verdict: deny\r\n"
    } else {
        ""
    };
    let head = format!(
        "HTTP/1.1 {status}\r\n{verdict}Content-Type: text/plain; charset=utf-8\r\nContent-Length: \
         {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
        text.len()
    );
    let body = if is_head { "" } else { text };
    let said = async {
        output.write_all(head.as_bytes()).await?;
        output.write_all(body.as_bytes()).await?;
        output.shutdown().await
    };
    if said.await.is_err() {
        return false;
    }
    // A connection that is closed while the guest still speaks is reset, and
    // the answer with it.
    let _late = timeout(limits::REFUSAL_TIME, input.drain(limits::REFUSED_BODY)).await;
    true
}

/// The code and its words, with the rule in them: npm, pip, cargo and wget
/// show those words and no body.
fn status(page: &Page) -> String {
    let plain = |c: &char| c.is_ascii_graphic() || *c == ' ';
    match page.rule() {
        Some(rule) => {
            let rule: String = rule.chars().filter(plain).take(LONGEST_RULE).collect();
            format!("{} ({rule})", page.status)
        }
        None => page.status.to_string(),
    }
}

/// Characters of a rule in the words of a status.
const LONGEST_RULE: usize = 200;

async fn http2<S>(page: &Page, stream: S) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut server = h2::server::Builder::new();
    server
        .max_concurrent_streams(8)
        .max_header_list_size(u32::try_from(limits::HTTP_HEAD).unwrap_or(u32::MAX));
    let Ok(mut connection) = server.handshake::<_, Bytes>(stream).await else {
        return false;
    };
    let mut told = false;
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        drop(request);
        told |= tell(page, &mut respond);
        connection.graceful_shutdown();
    }
    told
}

/// Answers one request of HTTP/2.
pub(super) fn tell(page: &Page, respond: &mut h2::server::SendResponse<Bytes>) -> bool {
    let mut response = Response::new(());
    *response.status_mut() = page.status;
    let headers = response.headers_mut();
    if page.is_verdict() {
        headers.insert(VERDICT, HeaderValue::from_static("deny"));
    }
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(CONTENT_TYPE, plain);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_LENGTH, page.text.len().into());
    let body = Bytes::from(page.text.clone().into_bytes());
    match respond.send_response(response, false) {
        Ok(mut stream) => stream.send_data(body, true).is_ok(),
        Err(_) => false,
    }
}

impl<R: AsyncRead + Unpin> Input<R> {
    /// Reads and forgets, up to `most` bytes.
    async fn drain(&mut self, most: usize) {
        let mut left = most;
        while let Ok(count @ 1..) = self.forget().await {
            left = left.saturating_sub(count);
            if left == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(work)
    }

    async fn asked(request: &str, page: &Page) -> (bool, String) {
        let (mut guest, ours) = tokio::io::duplex(65_536);
        let client = async {
            guest.write_all(request.as_bytes()).await.unwrap();
            guest.shutdown().await.unwrap();
            let mut heard = String::new();
            guest.read_to_string(&mut heard).await.unwrap();
            heard
        };
        tokio::join!(answer(page, ours, Offer::Http1), client)
    }

    #[test]
    fn a_denied_request_gets_the_page_and_an_end() {
        let page = Page::denied("sbx: no.\n".to_owned());
        let (told, heard) = run(asked("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &page));
        assert!(told);
        assert!(heard.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{heard}");
        assert!(heard.contains("X-Sbx-Verdict: deny\r\n") && heard.ends_with("\r\n\r\nsbx: no.\n"));
        let (_, heard) = run(asked("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", &page));
        assert!(
            heard.contains("Content-Length: 9\r\n") && heard.ends_with("\r\n\r\n"),
            "{heard}"
        );
    }

    #[test]
    fn the_words_of_the_status_name_the_rule_for_clients_that_show_no_more() {
        let text = "sbx: no.\nrule: user deny a.example\u{e9}\nTo take it back.\n";
        let page = Page::denied(text.to_owned());
        let (_, heard) = run(asked("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &page));
        let expected = "HTTP/1.1 403 Forbidden (user deny a.example)\r\n";
        assert!(heard.starts_with(expected), "{heard}");
        let page = Page::denied(format!("rule: {}\n", "a".repeat(10_000)));
        assert!(status(&page).len() < 300);
    }

    #[test]
    fn what_is_no_request_is_not_answered() {
        let page = Page::denied("sbx: no.\n".to_owned());
        for said in ["", "\0\0\r\n\r\n", "hello\r\n\r\n", "GET / HT"] {
            assert_eq!(run(asked(said, &page)), (false, String::new()), "{said:?}");
        }
    }
}
