//! The memory of connections, in two sizes: the first connections get the
//! large one, a crowd gets small ones, and the sum is bounded.

use crate::limits;

/// The right to a pair of one size; given back when the connection ends.
#[derive(Debug)]
pub(crate) struct Claim {
    size: usize,
}

/// Who holds how many.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    held: [usize; limits::BUFFERS.len()],
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

    /// Takes a claim back.
    pub(crate) fn give_back(&mut self, claim: Claim) {
        if let Some(held) = self.held.get_mut(claim.size) {
            *held = held.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
