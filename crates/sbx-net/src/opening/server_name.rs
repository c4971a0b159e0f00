//! The server name of a TLS hello, as every server reads it or not at all.
//!
//! Owns: one extension of one message (RFC 6066, 3). A list of several names,
//! or with an entry of another kind, is skipped in part by some servers and
//! refused by others: what one reader takes for "asks for no server" another
//! could serve as one that was never judged.

/// What a hello says of the server that it wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Asked {
    /// Nothing.
    Nobody,
    /// This host.
    Host(String),
    /// Something that two servers could read in two ways.
    Unclear,
}

const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// Reads the records that `bytes` begin with, which hold a whole hello.
pub(super) fn read(bytes: &[u8]) -> Asked {
    let message = handshake(bytes);
    asked(&message).unwrap_or(Asked::Unclear)
}

/// What the first records carry, put together.
fn handshake(bytes: &[u8]) -> Vec<u8> {
    let (mut message, mut rest) = (Vec::new(), Bytes(bytes));
    while rest.take(1) == Some(&[super::HANDSHAKE])
        && rest.take(2).is_some()
        && let Some(part) = rest.sized::<2>()
    {
        message.extend_from_slice(part);
    }
    message
}

/// `None` for what is no hello.
fn asked(message: &[u8]) -> Option<Asked> {
    let mut message = Bytes(message);
    if message.take(1)? != [CLIENT_HELLO] {
        return None;
    }
    let mut hello = Bytes(message.sized::<3>()?);
    // Version and random; session, ciphers, compressions.
    hello.take(2 + 32)?;
    hello.sized::<1>()?;
    hello.sized::<2>()?;
    hello.sized::<1>()?;
    if hello.0.is_empty() {
        return Some(Asked::Nobody);
    }
    let mut extensions = Bytes(hello.sized::<2>()?);
    let mut found = Asked::Nobody;
    while !extensions.0.is_empty() {
        let kind = extensions.number::<2>()?;
        let body = extensions.sized::<2>()?;
        if kind == usize::from(SERVER_NAME) {
            if found != Asked::Nobody {
                return None;
            }
            found = one_host(body)?;
        }
    }
    Some(found)
}

/// The one host that a list names; `None` for any other list.
fn one_host(body: &[u8]) -> Option<Asked> {
    let mut body = Bytes(body);
    let mut list = Bytes(body.sized::<2>()?);
    if !body.0.is_empty() || list.take(1)? != [HOST_NAME] {
        return None;
    }
    let name = list.sized::<2>()?;
    if !list.0.is_empty() || name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    String::from_utf8(name.to_vec()).ok().map(Asked::Host)
}

/// What is left to be read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of `N` bytes.
    fn number<const N: usize>(&mut self) -> Option<usize> {
        let bytes = self.take(N)?;
        Some(
            bytes
                .iter()
                .fold(0, |all, byte| all << 8 | usize::from(*byte)),
        )
    }

    /// Bytes behind their length of `N` bytes.
    fn sized<const N: usize>(&mut self) -> Option<&'a [u8]> {
        let length = self.number::<N>()?;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(width: usize, body: &[u8]) -> Vec<u8> {
        let length = body.len().to_be_bytes();
        [&length[length.len() - width..], body].concat()
    }

    /// A hello with these extensions, in one record.
    fn hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let extensions: Vec<u8> = extensions
            .iter()
            .flat_map(|(kind, body)| [&kind.to_be_bytes()[..], &sized(2, body)].concat())
            .collect();
        let body = [
            &[3, 3][..],
            &[7; 32],
            &sized(1, &[]),
            &sized(2, &[0x13, 1]),
            &sized(1, &[0]),
            &sized(2, &extensions),
        ]
        .concat();
        let message = [&[CLIENT_HELLO][..], &sized(3, &body)].concat();
        [&[super::super::HANDSHAKE, 3, 1][..], &sized(2, &message)].concat()
    }

    fn names(list: &[(u8, &[u8])]) -> Vec<u8> {
        let entries: Vec<u8> = list
            .iter()
            .flat_map(|(kind, name)| [&[*kind][..], &sized(2, name)].concat())
            .collect();
        sized(2, &entries)
    }

    #[test]
    fn one_host_is_read_and_none_is_none() {
        let one = names(&[(0, b"a.example")]);
        let host = Asked::Host("a.example".to_owned());
        assert_eq!(read(&hello(&[(10, vec![]), (0, one)])), host);
        assert_eq!(read(&hello(&[(10, vec![1, 2])])), Asked::Nobody);
    }

    #[test]
    fn what_another_server_could_read_otherwise_is_unclear() {
        for list in [
            names(&[(1, b"x"), (0, b"evil.example")]),
            names(&[(0, b"a.example"), (0, b"evil.example")]),
            names(&[(0, b"a.example"), (1, b"x")]),
            names(&[(0, b"")]),
            names(&[(0, b"a.example\0")]),
            names(&[(0, "\u{e4}.example".as_bytes())]),
            names(&[]),
            vec![],
            [&names(&[(0, b"a.example")])[..], b"more"].concat(),
        ] {
            assert_eq!(
                read(&hello(&[(0, list.clone())])),
                Asked::Unclear,
                "{list:?}"
            );
        }
        let one = || (0, names(&[(0, b"a.example")]));
        assert_eq!(read(&hello(&[one(), one()])), Asked::Unclear);
    }

    #[test]
    fn a_hello_that_is_cut_is_unclear() {
        let whole = hello(&[(0, names(&[(0, b"a.example")]))]);
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end]), Asked::Unclear, "{end}");
        }
    }
}
