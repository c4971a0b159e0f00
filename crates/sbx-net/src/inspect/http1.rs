//! HTTP/1 between a guest and a server: one request at a time, each judged
//! before any of it goes on.

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::timeout;

use super::body::{Fault, Input};
use super::case::{Case, Page};
use super::head::{Length, Request, Response};
use super::page;
use crate::limits;

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// Both sides were done.
    Orderly,
    /// One side broke off, or was made to: the guest must see that what it
    /// has is not whole.
    Broken,
}

/// Both sides of an inspected connection.
pub(super) struct Relay<'a, G, S> {
    case: &'a Case,
    guest: Input<ReadHalf<G>>,
    to_guest: WriteHalf<G>,
    server: Input<ReadHalf<S>>,
    to_server: WriteHalf<S>,
}

/// What comes after an exchange.
enum Next {
    Another,
    Nothing(Ended),
    WebSocket,
}

impl<'a, G, S> Relay<'a, G, S>
where
    G: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn new(case: &'a Case, guest: G, server: S) -> Self {
        let (guest, to_guest) = tokio::io::split(guest);
        let (server, to_server) = tokio::io::split(server);
        Self {
            case,
            guest: Input::new(guest),
            to_guest,
            server: Input::new(server),
            to_server,
        }
    }

    /// Serves requests until one side ends.
    pub(super) async fn run(mut self) -> Ended {
        loop {
            let Next::Nothing(ended) = self.exchange().await else {
                continue;
            };
            // Of a connection that is over nobody waits for the last byte.
            let _gone = self.to_server.shutdown().await;
            let _gone = self.to_guest.shutdown().await;
            return ended;
        }
    }

    async fn exchange(&mut self) -> Next {
        let head = match self.next_head().await {
            Ok(Some(head)) => head,
            Ok(None) => return Next::Nothing(Ended::Orderly),
            Err(Fault::Shape(refused)) => return self.tell(&Page::malformed(refused)).await,
            Err(_) => return Next::Nothing(Ended::Broken),
        };
        let request = match Request::read(&head) {
            Ok(request) => request,
            Err(refused) => return self.tell(&Page::malformed(refused)).await,
        };
        let authority = match request.fields.single("host") {
            Ok(authority) => authority,
            Err(refused) => return self.tell(&Page::malformed(refused)).await,
        };
        let bare = request.method == "HEAD";
        let case = self.case;
        let asked = case.judge(&request.method, &request.target, authority);
        let asked = match asked.await {
            Ok(asked) => asked,
            Err(page) => return self.tell_of(&page, bare).await,
        };
        let serve = async {
            match self.carry(&request).await {
                Next::WebSocket => Next::Nothing(self.splice().await),
                next => next,
            }
        };
        tokio::select! {
            next = serve => next,
            () = case.objection(&asked) => Next::Nothing(Ended::Broken),
        }
    }

    /// The next head, while the server stays.
    async fn next_head(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        if self.guest.is_empty() {
            tokio::select! {
                biased;
                count = self.guest.more() => match count {
                    Ok(0) => return Ok(None),
                    Ok(_) => {}
                    Err(_) => return Err(Fault::Speaker),
                },
                // A server that speaks unasked would have its words taken
                // for the answer to the next request.
                stirs = self.server.stirs() => return match stirs {
                    Ok(0) => Ok(None),
                    _ => Err(Fault::Hearer),
                },
            }
        }
        timeout(limits::HTTP_HEAD_TIME, self.guest.head())
            .await
            .unwrap_or(Err(Fault::Shape("a head that does not come to its end")))
    }

    /// Carries one request that is allowed, and its answer.
    async fn carry(&mut self, request: &Request) -> Next {
        let Self {
            case,
            guest,
            to_guest,
            server,
            to_server,
        } = self;
        let sending = async {
            let mut head = request.written();
            let length = guest.begin(request.length, &mut head);
            to_server
                .write_all(&head)
                .await
                .map_err(|_| Fault::Hearer)?;
            to_server.flush().await.map_err(|_| Fault::Hearer)?;
            guest.body(length, to_server).await?;
            to_server.flush().await.map_err(|_| Fault::Hearer)
        };
        let answering = answer(request, server, to_guest);
        tokio::pin!(sending, answering);
        let mut sent = false;
        let answered = loop {
            tokio::select! {
                done = &mut sending, if !sent => match done {
                    // A server that takes no more may still have answered.
                    Ok(()) | Err(Fault::Hearer) => sent = true,
                    Err(fault) => break Err(fault),
                },
                done = &mut answering => break done,
            }
        };
        match answered {
            Ok(response) if response.status == 101 => Next::WebSocket,
            // What is left of the request would be taken for the next one.
            Ok(response) if sent && request.persists() && response.persists() => Next::Another,
            Ok(_) => Next::Nothing(Ended::Orderly),
            Err(Fault::Shape(refused)) => {
                case.malformed(refused);
                Next::Nothing(Ended::Broken)
            }
            Err(_) => Next::Nothing(Ended::Broken),
        }
    }

    /// Tells the guest why its request went nowhere, and is done with it.
    async fn tell(&mut self, page: &Page) -> Next {
        self.tell_of(page, false).await
    }

    /// The same for a request whose answers are `bare`: heads without a body.
    async fn tell_of(&mut self, page: &Page, bare: bool) -> Next {
        self.case.refused(page);
        let told = page::http1(page, &mut self.guest, &mut self.to_guest, bare).await;
        Next::Nothing(if told { Ended::Orderly } else { Ended::Broken })
    }

    /// What is in a WebSocket is between its ends.
    async fn splice(&mut self) -> Ended {
        let out = async {
            self.guest
                .body(Length::UntilEnd, &mut self.to_server)
                .await?;
            self.to_server.shutdown().await.map_err(|_| Fault::Hearer)
        };
        let back = async {
            self.server
                .body(Length::UntilEnd, &mut self.to_guest)
                .await?;
            self.to_guest.shutdown().await.map_err(|_| Fault::Hearer)
        };
        match tokio::try_join!(out, back) {
            Ok(_) => Ended::Orderly,
            Err(_) => Ended::Broken,
        }
    }
}

/// Hands an answer on, with all that comes before it.
async fn answer<R, W>(
    request: &Request,
    server: &mut Input<R>,
    to_guest: &mut W,
) -> Result<Response, Fault>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    for _ in 0..limits::HTTP_INTERIM {
        let Some(head) = server.head().await? else {
            return Err(Fault::Speaker);
        };
        let response = Response::read(&head, request)?;
        let mut written = response.written();
        let length = server.begin(response.length, &mut written);
        to_guest
            .write_all(&written)
            .await
            .map_err(|_| Fault::Hearer)?;
        to_guest.flush().await.map_err(|_| Fault::Hearer)?;
        if (100..200).contains(&response.status) && response.status != 101 {
            continue;
        }
        server.body(length, to_guest).await?;
        to_guest.flush().await.map_err(|_| Fault::Hearer)?;
        return Ok(response);
    }
    Err(Fault::Shape("too many answers before the answer"))
}
