//! The memory of connections, in two sizes: the first connections get the
//! large one, a crowd gets small ones, and the sum is bounded.
//!
//! Large ones outlive their connection, a few of them: to ask for that much,
//! clear it and give it back costs more than all else that a short connection
//! does. What the one before had in it nobody sees: of a buffer only what was
//! put in since is ever taken out.

use crate::limits;
use crate::stack::{self, Socket, Stack};

/// The right to a pair of one size; given back when the connection ends.
#[derive(Debug)]
pub(crate) struct Claim {
    size: usize,
}

/// Who holds how many.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    held: [usize; limits::BUFFERS.len()],
    /// Large ones that nobody holds.
    spare: Vec<Socket>,
}

impl Buffers {
    /// The right to two buffers of the largest size that is left, and that
    /// size in bytes; `None` when all are in use.
    pub(crate) fn claim(&mut self) -> Option<(Claim, usize)> {
        for (size, ((bytes, most), held)) in limits::BUFFERS.iter().zip(&mut self.held).enumerate()
        {
            if *held < *most {
                *held += 1;
                return Some((Claim { size }, *bytes));
            }
        }
        None
    }

    /// A socket with the two buffers of a claim.
    pub(crate) fn socket(&mut self, claim: &Claim) -> Socket {
        let spare = if claim.size == 0 {
            self.spare.pop()
        } else {
            None
        };
        let bytes = limits::BUFFERS
            .get(claim.size)
            .map_or(0, |(bytes, _)| *bytes);
        spare.unwrap_or_else(|| stack::socket(bytes))
    }

    /// Takes a claim back with what is left of its connection.
    pub(crate) fn retire(&mut self, claim: Claim, stack: Stack) {
        let large = limits::BUFFERS.first().map(|(bytes, _)| *bytes);
        if self.spare.len() < limits::SPARE_BUFFERS
            && let Some(socket) = stack.into_socket()
            && Some(socket.send_capacity()) == large
        {
            self.spare.push(socket);
        }
        self.give_back(claim);
    }

    /// Takes a claim back.
    pub(crate) fn give_back(&mut self, claim: Claim) {
        if let Some(held) = self.held.get_mut(claim.size) {
            *held = held.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use smoltcp::time::Instant;

    use super::*;

    /// A connection with a claim's buffers, or with smaller ones.
    fn stack(buffers: &mut Buffers, claim: &Claim, smaller: Option<usize>) -> Stack {
        let socket = smaller.map_or_else(|| buffers.socket(claim), stack::socket);
        let server = "192.0.2.1:80".parse().unwrap();
        Stack::listen(server, socket, 1, Instant::ZERO).unwrap()
    }

    #[test]
    fn a_few_large_buffers_wait_for_the_next_connections() {
        let mut buffers = Buffers::default();
        let mut open = Vec::new();
        for _ in 0..limits::SPARE_BUFFERS + 1 {
            let (claim, _) = buffers.claim().unwrap();
            let mut stack = stack(&mut buffers, &claim, None);
            stack.socket().abort();
            open.push((claim, stack));
        }
        for (claim, stack) in open {
            buffers.retire(claim, stack);
        }
        assert_eq!(buffers.spare.len(), limits::SPARE_BUFFERS);
        let (claim, bytes) = buffers.claim().unwrap();
        let socket = buffers.socket(&claim);
        assert_eq!(buffers.spare.len(), limits::SPARE_BUFFERS - 1);
        assert_eq!(socket.send_capacity(), bytes);
    }

    #[test]
    fn what_is_not_over_or_not_large_waits_for_nobody() {
        let mut buffers = Buffers::default();
        let (claim, _) = buffers.claim().unwrap();
        let open = stack(&mut buffers, &claim, None);
        buffers.retire(claim, open);
        let (claim, _) = buffers.claim().unwrap();
        let mut small = stack(&mut buffers, &claim, Some(limits::REFUSAL));
        small.socket().abort();
        buffers.retire(claim, small);
        assert!(buffers.spare.is_empty());
        assert_eq!(buffers.held[0], 0);
    }

    #[test]
    fn a_crowd_gets_small_buffers_and_then_none() {
        let mut buffers = Buffers::default();
        let mut claims = Vec::new();
        while let Some(claim) = buffers.claim() {
            claims.push(claim);
        }
        let total: usize = claims.iter().map(|(_, bytes)| bytes * 2).sum();
        let most: usize = limits::BUFFERS
            .iter()
            .map(|(bytes, most)| bytes * 2 * most)
            .sum();
        assert_eq!(total, most);
        let (first, bytes) = claims.swap_remove(0);
        assert_eq!(bytes, limits::BUFFERS[0].0);
        buffers.give_back(first);
        assert_eq!(buffers.claim().unwrap().1, bytes);
    }
}
