//! Owners and set-id bits that the guest set, recorded here and never given to the host.
//!
//! Owns one small append-only text file in the shadow store. A record belongs to an inode and
//! its time of birth, so that a reused inode number does not inherit it.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use parking_lot::RwLock;
use rustix::fs::{Mode, OFlags, RenameFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::host;
use super::node::device;
use crate::config::Squash;

const FILE: &CStr = c"owners";
const FILE_NEW: &CStr = c"owners.new";
/// One line is shorter than this many bytes.
const LINE_MAX: u64 = 160;
/// The set-user-id and set-group-id bits.
pub(crate) const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;

/// Owner and set-id bits of a file as the guest sees them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Only bits of [`SET_ID`].
    pub(crate) set_id: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Subject {
    /// 0 for the share's own file system, 1 for the shadow's, else the device number, which may
    /// change with the next boot: then the record is lost, not misapplied.
    volume: u64,
    ino: u64,
    born: (i64, u32),
}

struct Records {
    map: HashMap<Subject, Owner>,
    log: File,
    lines: usize,
}

/// All recorded owners of one share.
pub(crate) struct Owners {
    records: RwLock<Records>,
    base: OwnedFd,
    limit: usize,
    squash: Option<Squash>,
    volumes: [u64; 2],
}

impl Owners {
    /// Reads the records kept in `base`. `volumes` are the devices of share and shadow.
    pub(crate) fn open(
        base: BorrowedFd<'_>,
        limit: usize,
        squash: Option<Squash>,
        volumes: [u64; 2],
    ) -> io::Result<Self> {
        let map = read(base, limit)?;
        let log = write_all(base, &map)?;
        let lines = map.len();
        Ok(Self {
            records: RwLock::new(Records { map, log, lines }),
            base: base.try_clone_to_owned()?,
            limit,
            squash,
            volumes,
        })
    }

    /// The owner to show for a file.
    pub(crate) fn shown(&self, st: &Statx) -> Owner {
        let natural = self.natural(st);
        let records = self.records.read();
        if records.map.is_empty() {
            return natural;
        }
        match records.map.get(&self.subject(st)) {
            Some(owner) => *owner,
            None => natural,
        }
    }

    /// Records what the guest wants shown for a file from now on.
    pub(crate) fn record(&self, st: &Statx, owner: Owner) -> io::Result<()> {
        let subject = self.subject(st);
        let mut records = self.records.write();
        if owner == self.natural(st) {
            return match records.map.remove(&subject) {
                Some(_) => self.append(&mut records, &subject, None),
                None => Ok(()),
            };
        }
        if records.map.get(&subject) == Some(&owner) {
            return Ok(());
        }
        if records.map.len() >= self.limit && !records.map.contains_key(&subject) {
            return Err(Errno::NOSPC.into());
        }
        records.map.insert(subject, owner);
        self.append(&mut records, &subject, Some(&owner))
    }

    /// The file is gone for good.
    pub(crate) fn forget(&self, st: &Statx) {
        if self.records.read().map.is_empty() {
            return;
        }
        let subject = self.subject(st);
        let mut records = self.records.write();
        if records.map.remove(&subject).is_some()
            && let Err(e) = self.append(&mut records, &subject, None)
        {
            log::warn!("cannot write the owners file: {e}");
        }
    }

    /// The owner without any record: the host's, through the squash.
    fn natural(&self, st: &Statx) -> Owner {
        let set_id = u32::from(st.stx_mode) & SET_ID;
        let mut owner = Owner {
            uid: st.stx_uid,
            gid: st.stx_gid,
            set_id,
        };
        if let Some(squash) = &self.squash {
            if owner.uid == squash.host_uid {
                owner.uid = squash.guest_uid;
            }
            if owner.gid == squash.host_gid {
                owner.gid = squash.guest_gid;
            }
        }
        owner
    }

    fn subject(&self, st: &Statx) -> Subject {
        let dev = device(st);
        let [share, shadow] = self.volumes;
        let volume = match dev {
            d if d == share => 0,
            d if d == shadow => 1,
            d => d,
        };
        let known = StatxFlags::from_bits_retain(st.stx_mask).contains(StatxFlags::BTIME);
        Subject {
            volume,
            ino: st.stx_ino,
            born: if known {
                (st.stx_btime.tv_sec, st.stx_btime.tv_nsec)
            } else {
                (0, 0)
            },
        }
    }

    fn append(
        &self,
        records: &mut Records,
        subject: &Subject,
        owner: Option<&Owner>,
    ) -> io::Result<()> {
        if records.lines > 2 * records.map.len() + 1024 {
            records.log = write_all(self.base.as_fd(), &records.map)?;
            records.lines = records.map.len();
            return Ok(());
        }
        records.lines += 1;
        records.log.write_all(line(subject, owner).as_bytes())
    }
}

fn line(subject: &Subject, owner: Option<&Owner>) -> String {
    let Subject { volume, ino, born } = subject;
    let mut text = format!("{volume} {ino} {} {}", born.0, born.1);
    // Writing to a string cannot fail.
    let _ = match owner {
        Some(o) => writeln!(text, " {} {} {}", o.uid, o.gid, o.set_id),
        None => writeln!(text),
    };
    text
}

fn parse(text: &str) -> Option<(Subject, Option<Owner>)> {
    let mut fields = text.split(' ');
    let subject = Subject {
        volume: fields.next()?.parse().ok()?,
        ino: fields.next()?.parse().ok()?,
        born: (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?),
    };
    let Some(uid) = fields.next() else {
        return Some((subject, None));
    };
    let owner = Owner {
        uid: uid.parse().ok()?,
        gid: fields.next()?.parse().ok()?,
        set_id: fields.next()?.parse::<u32>().ok()? & SET_ID,
    };
    Some((subject, Some(owner)))
}

fn read(base: BorrowedFd<'_>, limit: usize) -> io::Result<HashMap<Subject, Owner>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = match rustix::fs::openat(base, FILE, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(HashMap::new()),
        Err(e) => return Err(e.into()),
    };
    let most = (limit as u64).saturating_mul(3).saturating_add(2048);
    let mut bytes = Vec::new();
    File::from(fd)
        .take(most.saturating_mul(LINE_MAX))
        .read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut map = HashMap::new();
    // A torn last line (the process was killed) does not parse and is left out.
    for (subject, owner) in text.lines().filter_map(parse) {
        match owner {
            Some(owner) => map.insert(subject, owner),
            None => map.remove(&subject),
        };
    }
    Ok(map)
}

fn write_all(base: BorrowedFd<'_>, map: &HashMap<Subject, Owner>) -> io::Result<File> {
    if let Err(e) = host::unlink(base, FILE_NEW)
        && !host::is(&e, Errno::NOENT)
    {
        return Err(e);
    }
    let flags = OFlags::WRONLY | OFlags::APPEND;
    let mut file = host::create(base, FILE_NEW, flags, Mode::RUSR | Mode::WUSR)?;
    let mut text = String::new();
    for (subject, owner) in map {
        text.push_str(&line(subject, Some(owner)));
    }
    file.write_all(text.as_bytes())?;
    host::rename((base, FILE_NEW), (base, FILE), RenameFlags::empty())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back_as_what_was_written() {
        let subject = Subject {
            volume: 0,
            ino: u64::MAX,
            born: (-3, 999_999_999),
        };
        let owner = Owner {
            uid: 999,
            gid: 0,
            set_id: libc::S_ISUID,
        };
        for recorded in [Some(owner), None] {
            let text = line(&subject, recorded.as_ref());
            assert!(text.len() < LINE_MAX as usize);
            assert_eq!(parse(text.trim_end()), Some((subject, recorded)));
        }
    }

    #[test]
    fn a_torn_line_is_no_record() {
        for torn in ["", "0", "0 5 1", "0 5 1 2 999", "0 5 1 2 999 9", "a b c d"] {
            assert_eq!(parse(torn), None, "{torn:?}");
        }
    }
}
