//! The grammar of `--mount` and `--volume`: Docker's, as far as its parts
//! have a meaning here.
//!
//! Pure text: whether a source exists and may be mounted is looked at later.

use std::fmt;
use std::path::PathBuf;

use crate::{Access, ByteSize, GuestPath};

/// A mount as typed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MountText {
    /// A directory or file of the host.
    Bind {
        /// As typed: may be relative.
        source: PathBuf,
        /// Where the guest sees it.
        guest: GuestPath,
        /// Whether the guest may write.
        access: Access,
    },
    /// A directory on the sandbox's own disk.
    Volume {
        /// Its name.
        name: String,
        /// Where the guest sees it.
        guest: GuestPath,
    },
    /// A directory in memory.
    Tmpfs {
        /// Where the guest sees it.
        guest: GuestPath,
        /// Its upper bound.
        size: Option<ByteSize>,
    },
}

/// Why a text is not a mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountError(String);

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for MountError {}

fn wrong<T>(message: impl Into<String>) -> Result<T, MountError> {
    Err(MountError(message.into()))
}

impl MountText {
    /// Reads the value of `--mount`:
    /// `type=bind|volume|tmpfs,source=…,target=…[,readonly]`.
    ///
    /// # Errors
    /// What is missing, unknown or given twice.
    pub fn parse_mount(text: &str) -> Result<Self, MountError> {
        let mut seen = Fields::default();
        for field in csv_fields(text)? {
            seen.take(&field)?;
        }
        let Some(target) = seen.target else {
            return wrong("it has no target=PATH");
        };
        let guest = guest_path(&target)?;
        let access = if seen.read_only {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        };
        if seen.size.is_some() && seen.kind.as_deref() != Some("tmpfs") {
            return wrong("tmpfs-size belongs to type=tmpfs");
        }
        match (seen.kind.as_deref().unwrap_or("volume"), seen.source) {
            ("bind", Some(source)) => Ok(Self::Bind {
                source: source.into(),
                guest,
                access,
            }),
            ("bind", None) => wrong("type=bind needs source=PATH"),
            ("tmpfs", None) if !seen.read_only => Ok(Self::Tmpfs {
                guest,
                size: seen.size,
            }),
            ("tmpfs", None) => wrong("a tmpfs that cannot be written to has no use"),
            ("tmpfs", Some(_)) => wrong("type=tmpfs has no source"),
            ("volume", _) if seen.read_only => {
                wrong("a volume belongs to one sandbox and is always writable")
            }
            ("volume", source) => volume(source.as_deref(), guest),
            (other, _) => wrong(format!("type={other} is not bind, volume or tmpfs")),
        }
    }

    /// Reads the value of `--volume`: `SOURCE:TARGET[:OPTIONS]`, or a target
    /// alone for a volume without a name. A source that holds a slash, or is
    /// `.` or `..`, is a path, any other the name of a volume.
    ///
    /// # Errors
    /// What is missing or unknown.
    pub fn parse_volume(text: &str) -> Result<Self, MountError> {
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, options) = match parts.as_slice() {
            [target] => (None, *target, ""),
            [source, target] => (Some(*source), *target, ""),
            [source, target, options] => (Some(*source), *target, *options),
            _ => return wrong("a path that holds `:` needs --mount"),
        };
        let mut access = Access::ReadWrite;
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option {
                "ro" | "readonly" => access = Access::ReadOnly,
                // Labels of SELinux and caches of other systems: they change
                // nothing here, and habits keep typing them.
                "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" => {}
                other => return wrong(format!("option `{other}` is not known")),
            }
        }
        let guest = guest_path(target)?;
        match source {
            Some("") => wrong("its source is empty"),
            Some(path) if path.contains('/') || path == "." || path == ".." => Ok(Self::Bind {
                source: path.into(),
                guest,
                access,
            }),
            _ if access == Access::ReadOnly => {
                wrong("a volume belongs to one sandbox and is always writable")
            }
            name => volume(name, guest),
        }
    }
}

#[derive(Default)]
struct Fields {
    kind: Option<String>,
    source: Option<String>,
    target: Option<String>,
    size: Option<ByteSize>,
    read_only: bool,
}

impl Fields {
    fn take(&mut self, field: &str) -> Result<(), MountError> {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field, None),
        };
        let once = |slot: &mut Option<String>| match value {
            None | Some("") => wrong(format!("{key} has no value")),
            Some(_) if slot.is_some() => wrong(format!("{key} is given twice")),
            Some(value) => {
                *slot = Some(value.to_owned());
                Ok(())
            }
        };
        match key {
            "type" => once(&mut self.kind),
            "source" | "src" => once(&mut self.source),
            "target" | "dst" | "destination" => once(&mut self.target),
            "readonly" | "ro" => {
                self.read_only = match value {
                    None | Some("true" | "1") => true,
                    Some("false" | "0") => false,
                    Some(other) => return wrong(format!("{key}={other} is not true or false")),
                };
                Ok(())
            }
            "tmpfs-size" => {
                let size = value.unwrap_or_default();
                self.size = Some(
                    size.parse()
                        .map_err(|error| MountError(format!("{key}: {error}")))?,
                );
                Ok(())
            }
            "consistency" => Ok(()),
            other => wrong(format!("`{other}` is not known here")),
        }
    }
}

fn guest_path(text: &str) -> Result<GuestPath, MountError> {
    GuestPath::new(text).map_err(|error| MountError(format!("target `{text}`: {error}")))
}

fn volume(name: Option<&str>, guest: GuestPath) -> Result<MountText, MountError> {
    let name = match name {
        Some(name) => name.to_owned(),
        None => format!(
            "unnamed-{:08x}",
            crate::naming::hash(guest.as_bytes()) >> 32
        ),
    };
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.len() > 64
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
        || !name.chars().all(inside)
    {
        return wrong(format!(
            "`{name}` is no volume name (1 to 64 of a-z A-Z 0-9 _ . -); a path starts with / or ./"
        ));
    }
    Ok(MountText::Volume { name, guest })
}

/// Splits one record of comma-separated values; a field that holds a comma
/// stands in double quotes, in which `""` is one quote.
fn csv_fields(text: &str) -> Result<Vec<String>, MountError> {
    let mut fields = vec![String::new()];
    let mut chars = text.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        let start = fields.last().is_none_or(String::is_empty);
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                push(&mut fields, '"');
            }
            '"' if quoted => {
                quoted = false;
                if chars.peek().is_some_and(|next| *next != ',') {
                    return wrong("text follows a closing quote");
                }
            }
            '"' if start => quoted = true,
            '"' => return wrong("a quote stands inside a field"),
            ',' if !quoted => fields.push(String::new()),
            c => push(&mut fields, c),
        }
    }
    if quoted {
        wrong("a quote is not closed")
    } else {
        Ok(fields)
    }
}

fn push(fields: &mut [String], c: char) {
    if let Some(last) = fields.last_mut() {
        last.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(source: &str, guest: &str, access: Access) -> MountText {
        MountText::Bind {
            source: source.into(),
            guest: GuestPath::new(guest).unwrap(),
            access,
        }
    }

    #[test]
    fn reads_the_long_form() {
        for text in [
            "type=bind,source=/a,target=/b,readonly",
            "type=bind,src=/a,dst=/b,ro",
            "destination=/b,readonly=true,src=/a,type=bind,consistency=cached",
        ] {
            assert_eq!(
                MountText::parse_mount(text),
                Ok(bind("/a", "/b", Access::ReadOnly)),
                "{text}"
            );
        }
        assert_eq!(
            MountText::parse_mount("type=bind,\"source=/a,b\",target=/b"),
            Ok(bind("/a,b", "/b", Access::ReadWrite))
        );
        let guest = GuestPath::new("/t").unwrap();
        assert_eq!(
            MountText::parse_mount("type=tmpfs,dst=/t,tmpfs-size=64m"),
            Ok(MountText::Tmpfs {
                guest: guest.clone(),
                size: Some(ByteSize::mib(64))
            })
        );
        assert_eq!(
            MountText::parse_mount("src=data,dst=/t"),
            Ok(MountText::Volume {
                name: "data".into(),
                guest
            })
        );
    }

    #[test]
    fn refuses_what_the_long_form_does_not_mean() {
        for (text, part) in [
            ("type=bind,dst=/b", "needs source"),
            ("type=bind,src=/a", "no target"),
            ("type=bind,src=/a,dst=b", "starts with /"),
            ("type=bind,src=/a,dst=/b,dst=/c", "given twice"),
            (
                "type=bind,src=/a,dst=/b,bind-propagation=shared",
                "not known",
            ),
            ("type=npipe,src=/a,dst=/b", "npipe"),
            ("type=tmpfs,src=/a,dst=/b", "no source"),
            ("type=bind,src=/a,dst=/b,tmpfs-size=1m", "tmpfs-size"),
            ("type=volume,src=../x,dst=/b", "no volume name"),
            ("type=bind,src=/a,dst=/b,ro=maybe", "maybe"),
            ("type=bind,\"src=/a,dst=/b", "not closed"),
            ("", "not known"),
        ] {
            let error = MountText::parse_mount(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn reads_the_short_form() {
        assert_eq!(
            MountText::parse_volume("/a:/b"),
            Ok(bind("/a", "/b", Access::ReadWrite))
        );
        assert_eq!(
            MountText::parse_volume("./a:/b:ro,z"),
            Ok(bind("./a", "/b", Access::ReadOnly))
        );
        assert_eq!(
            MountText::parse_volume(".:/b"),
            Ok(bind(".", "/b", Access::ReadWrite))
        );
        let guest = GuestPath::new("/b").unwrap();
        assert_eq!(
            MountText::parse_volume("cache:/b"),
            Ok(MountText::Volume {
                name: "cache".into(),
                guest
            })
        );
        let Ok(MountText::Volume { name, .. }) = MountText::parse_volume("/b") else {
            panic!("a target alone is a volume");
        };
        assert!(name.starts_with("unnamed-"));
    }

    #[test]
    fn refuses_what_the_short_form_does_not_mean() {
        for text in [
            "",
            ":/b",
            "/a:",
            "/a:b",
            "/a:/b:rx",
            "/a:/b:ro:x",
            "da ta:/b",
            "cache:/b:ro",
        ] {
            assert!(MountText::parse_volume(text).is_err(), "{text}");
        }
    }
}
