//! Names of network interfaces, as the kernel's requests carry them.

use crate::error::{Error, Result};

/// A request about the interface `name`, with nothing but its name. What the
/// kernel would cut, refuse or, with a `%`, take for a pattern is refused here:
/// the interface would not be the one asked for.
pub(crate) fn request(name: &str) -> Result<libc::ifreq> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
    // The last byte is the zero that ends it.
    let fits = (1..libc::IFNAMSIZ).contains(&name.len());
    if !fits || !name.bytes().all(plain) || matches!(name, "." | "..") {
        return Err(Error::refused(format!("name an interface {name:?}")));
    }
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(libc::ifreq {
        ifr_name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_map: libc::__c_anonymous_ifru_map {
                mem_start: 0,
                mem_end: 0,
                base_addr: 0,
                irq: 0,
                dma: 0,
                port: 0,
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_would_take_otherwise_are_refused() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a:1",
            "a b",
            "tap%d",
            "a\0b",
            "é",
            "sixteen-letters-",
        ] {
            assert_eq!(request(name).unwrap_err().errno(), None, "{name:?}");
        }
        let name = request("fifteen-letters").unwrap().ifr_name;
        assert_eq!(name[14..], [b's'.cast_signed(), 0]);
    }
}
