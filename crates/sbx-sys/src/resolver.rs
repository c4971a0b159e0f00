//! Questions to the host's name servers, through the C library: it knows
//! where they are, and follows when that changes.

use std::ffi::{CString, c_char, c_int, c_uchar};

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoAnswer {
    /// There is no such name.
    NoName,
    /// The name has no records of that type.
    NoRecords,
    /// No server answered in time, or none could, or not as briefly as that.
    Failed,
}

#[link(name = "resolv")]
unsafe extern "C" {
    fn res_query(
        name: *const c_char,
        class: c_int,
        kind: c_int,
        answer: *mut c_uchar,
        length: c_int,
    ) -> c_int;
    fn __h_errno_location() -> *mut c_int;
}

/// Class IN.
const INTERNET: c_int = 1;

/// `HOST_NOT_FOUND` and `NO_DATA` of netdb.h.
const HOST_NOT_FOUND: c_int = 1;
const NO_DATA: c_int = 4;

/// Asks for the records of type `kind` of a name as it stands, without the
/// host's search domains, and blocks until there is a message or none to be
/// had. What is in it is the server's word.
///
/// # Errors
/// [`NoAnswer`]; a message longer than `most` bytes is none.
pub fn query(name: &str, kind: u16, most: usize) -> Result<Vec<u8>, NoAnswer> {
    let name = CString::new(name).map_err(|_| NoAnswer::Failed)?;
    let mut answer = vec![0; most];
    let room = c_int::try_from(most).map_err(|_| NoAnswer::Failed)?;
    // SAFETY: the name ends with its zero, and `answer` has room for `room`
    // bytes; both outlive the call, which keeps neither. Its state is this
    // thread's own.
    let length = unsafe {
        res_query(
            name.as_ptr(),
            INTERNET,
            c_int::from(kind),
            answer.as_mut_ptr(),
            room,
        )
    };
    match usize::try_from(length) {
        Ok(length) if length <= most => {
            answer.truncate(length);
            Ok(answer)
        }
        Ok(_) => Err(NoAnswer::Failed),
        Err(_) => Err(match last_error() {
            HOST_NOT_FOUND => NoAnswer::NoName,
            NO_DATA => NoAnswer::NoRecords,
            _ => NoAnswer::Failed,
        }),
    }
}

/// `h_errno` of this thread.
fn last_error() -> c_int {
    // SAFETY: takes nothing, and answers a place of this thread's own.
    let place = unsafe { __h_errno_location() };
    // SAFETY: that place is there as long as the thread, and nobody else's.
    unsafe { *place }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_question_can_hold_is_asked_of_nobody() {
        let long = "x".repeat(64);
        for name in [long.as_str(), "a\0b"] {
            assert_eq!(query(name, 16, 512), Err(NoAnswer::Failed), "{name:?}");
        }
    }
}
