//! What an interface leaves to hardware that a virtual one does not have:
//! checksums that nobody finishes, segments that nobody cuts.
//!
//! The kernel's features have numbers of its own and names for us, so they are
//! found by name. Requests are those of linux/ethtool.h.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::error::{Attempt, Error, Result};
use crate::interface::request;

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_SS_FEATURES: u32 = 4;

/// Features that there is room for; kernels have about 60.
const MOST: usize = 256;
/// The words of a feature's name.
const NAME: usize = 8;
/// The largest answer: three words and the names.
const ROOM: usize = 3 + MOST * NAME;

/// Switches off whatever would let frames leave the interface `name` other
/// than they go over a wire. Gathering from several pieces of memory is left on:
/// it cannot be seen from outside and saves a copy.
pub(crate) fn switch_off(name: &str) -> Result<()> {
    let device = Device::new(name)?;
    let unfinished = device.unfinished()?;
    let before = device.features(unfinished.len())?;
    // A pair of words for 32 features: which are meant, and what they become.
    let mut order = vec![ETHTOOL_SFEATURES, count(unfinished.len())?];
    for (unfinished, now) in unfinished.iter().zip(&before) {
        order.extend([unfinished & now.changeable, 0]);
    }
    device.ask(&order)?;
    let after = device.features(unfinished.len())?;
    let stays = |(unfinished, now): (&u32, &Features)| unfinished & now.changeable & now.active;
    if unfinished.iter().zip(&after).map(stays).any(|on| on != 0) {
        return Err(Error::refused(format!(
            "switch off the offloads of `{name}`"
        )));
    }
    Ok(())
}

/// 32 features.
#[derive(Clone, Copy)]
struct Features {
    changeable: u32,
    active: u32,
}

struct Device<'a> {
    name: &'a str,
    socket: OwnedFd,
}

impl<'a> Device<'a> {
    fn new(name: &'a str) -> Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .attempt("make a socket")?;
        Ok(Self { name, socket })
    }

    /// The features that leave something undone, a bit for each.
    fn unfinished(&self) -> Result<Vec<u32>> {
        // cmd, reserved, a mask of two words; then one count for each bit
        let answer = self.ask(&[ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0])?;
        let features = answer.get(4).map_or(0, |count| *count as usize);
        if !(1..=MOST).contains(&features) {
            return Err(Error::refused(format!(
                "learn the {features} features of `{}`",
                self.name
            )));
        }
        // cmd, set, length; then the names
        let answer = self.ask(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count(features)?])?;
        let names = answer.get(3..).unwrap_or_default().chunks_exact(NAME);
        let mut words = vec![0; features.div_ceil(32)];
        for (number, name) in names.take(features).enumerate() {
            let name: Vec<u8> = name.iter().flat_map(|word| word.to_ne_bytes()).collect();
            if is_unfinished(&name)
                && let Some(word) = words.get_mut(number / 32)
            {
                *word |= 1 << (number % 32);
            }
        }
        Ok(words)
    }

    fn features(&self, words: usize) -> Result<Vec<Features>> {
        // cmd, size; then available, requested, active, never changed
        let answer = self.ask(&[ETHTOOL_GFEATURES, count(words)?])?;
        let blocks = answer.get(2..).unwrap_or_default().chunks_exact(4);
        let features = |block: &[u32]| match *block {
            [available, _, active, never] => Features {
                changeable: available & !never,
                active,
            },
            _ => Features {
                changeable: 0,
                active: 0,
            },
        };
        Ok(blocks.take(words).map(features).collect())
    }

    /// Asks, with room for the longest answer to what is asked here.
    fn ask(&self, asked: &[u32]) -> Result<Box<[u32]>> {
        let mut room = vec![0; ROOM.max(asked.len())].into_boxed_slice();
        for (to, from) in room.iter_mut().zip(asked) {
            *to = *from;
        }
        let mut request = request(self.name)?;
        request.ifr_ifru.ifru_data = room.as_mut_ptr().cast();
        // SAFETY: `request` and the memory that it points to outlive the call;
        // the kernel reads no more than was asked, and writes at most three
        // words and 32 bytes for each feature, whose number `unfinished` has
        // checked before it asks for the names.
        let status = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
        if status < 0 {
            return Err(Error::new(
                format!("ask for the offloads of `{}`", self.name),
                std::io::Error::last_os_error(),
            ));
        }
        Ok(room)
    }
}

/// Whether a feature has frames leave before they are whole.
fn is_unfinished(name: &[u8]) -> bool {
    name.starts_with(b"tx-") && !name.starts_with(b"tx-scatter-gather")
}

fn count(number: usize) -> Result<u32> {
    u32::try_from(number).map_err(|_| Error::refused(format!("count to {number}")))
}
