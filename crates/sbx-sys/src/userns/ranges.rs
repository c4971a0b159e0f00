//! Which ids root's files give a user: `/etc/subuid` and `/etc/subgid`.
//!
//! Owns: how these files are read and which of their ranges become a
//! container's. Never: uses a range that contains root or an account, whoever
//! wrote it there: what is root of a container would be them. See `subuid(5)`.

use std::collections::BTreeSet;

use super::{COUNT, MAX_EXTENTS, Maps, Range, Unavailable, meets};
use crate::error::Result;
use crate::file;

/// One of these files at most; with a longer one nothing is mapped.
const MAX_FILE: usize = 4 << 20;

/// The files that say who is who.
#[derive(Default)]
pub(super) struct Sources {
    pub(super) passwd: String,
    pub(super) group: String,
    pub(super) subuid: String,
    pub(super) subgid: String,
}

/// Whether both files name the user, by number or by the name that
/// `/etc/passwd` has for it.
#[must_use]
pub fn has_ranges(uid: u32) -> bool {
    let Ok(sources) = Sources::of_host() else {
        return false;
    };
    let name = sources.account(uid).map(|account| account.name);
    [&sources.subuid, &sources.subgid]
        .iter()
        .all(|text| of_owner(text, uid, name).next().is_some())
}

/// The part of a line of `/etc/passwd` that matters here.
struct Account<'a> {
    name: &'a str,
    gid: Option<u32>,
}

impl Sources {
    /// Those of this host. Without its accounts nothing is told from them.
    pub(super) fn of_host() -> Result<Self> {
        let read = |path: &str| match file::read_bounded(path, MAX_FILE) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error),
        };
        Ok(Self {
            passwd: read("/etc/passwd")?,
            group: read("/etc/group")?,
            subuid: read("/etc/subuid")?,
            subgid: read("/etc/subgid")?,
        })
    }

    /// The maps of an ordinary user.
    pub(super) fn maps(&self, uid: u32, gid: u32) -> Result<Maps, Unavailable> {
        let account = self.account(uid);
        let name = account.as_ref().map(|account| account.name);
        let main = account.as_ref().and_then(|account| account.gid);
        if let Some(main) = main.filter(|main| *main != gid) {
            return Err(Unavailable {
                reason: format!(
                    "this process runs with group {gid} and your account's is {main}: newgidmap \
                     maps no other"
                ),
                cure: format!("run it with group {main}"),
            });
        }
        let lacks = |file: &str| {
            let user = name.map_or_else(|| uid.to_string(), str::to_owned);
            Unavailable {
                reason: format!(
                    "your user has no range of {COUNT} identities in {file} that newuidmap could \
                     use"
                ),
                cure: format!(
                    "`sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 \
                     {user}` gives one, if no other user has it"
                ),
            }
        };
        if gid == 0 {
            return Err(Unavailable {
                reason: "your group is root's, which is never mapped".to_owned(),
                cure: "run it with a group of your own".to_owned(),
            });
        }
        let uids = place(uid, &of_owner(&self.subuid, uid, name), &ids(&self.passwd));
        let gids = place(gid, &of_owner(&self.subgid, uid, name), &ids(&self.group));
        Ok(Maps {
            uids: uids.ok_or_else(|| lacks("/etc/subuid"))?,
            gids: gids.ok_or_else(|| lacks("/etc/subgid"))?,
        })
    }

    /// The first account with that number, as the C library finds it.
    fn account(&self, uid: u32) -> Option<Account<'_>> {
        self.passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty())?;
            let found = fields.nth(1)?;
            (found.parse() == Ok(uid)).then(|| Account {
                name,
                gid: fields.next().and_then(|gid| gid.parse().ok()),
            })
        })
    }
}

/// The ids of all accounts or groups: the third field of either file.
fn ids(text: &str) -> BTreeSet<u32> {
    let id = |line: &str| line.split(':').nth(2)?.parse().ok();
    text.lines().filter_map(id).collect()
}

/// First id and length of each range of a user, in the order of the file.
fn of_owner<'a>(
    text: &'a str,
    uid: u32,
    name: Option<&'a str>,
) -> impl Iterator<Item = (u32, u32)> + Clone + 'a {
    let number = uid.to_string();
    text.lines().filter_map(move |line| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        if owner != number && Some(owner) != name {
            return None;
        }
        let range = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        fields.next().is_none().then_some(range)
    })
}

/// The caller's id onto itself and every other id of a container onto
/// `ranges`; `None` where these do not reach.
fn place(
    own: u32,
    ranges: &(impl Iterator<Item = (u32, u32)> + Clone),
    accounts: &BTreeSet<u32>,
) -> Option<Vec<Range>> {
    let needed = if own < COUNT { COUNT - 1 } else { COUNT };
    let fit = ranges
        .clone()
        .filter(|range| is_free(*range, own, accounts));
    let chosen = match fit.clone().find(|range| range.1 >= needed) {
        Some(range) => vec![range],
        None => apart(fit),
    };
    let mut places = vec![Range::own(own)];
    // The runs of ids inside that the caller's own leaves.
    let mut gaps = vec![(0, own.min(COUNT)), (own.saturating_add(1), COUNT)];
    gaps.retain(|(from, to)| from < to);
    let mut gaps = gaps.into_iter();
    let mut gap = gaps.next();
    for (mut outside, mut left) in chosen {
        while let Some((from, to)) = gap.filter(|_| left > 0) {
            let count = left.min(to - from);
            places.push(Range {
                inside: from,
                outside,
                count,
            });
            outside += count;
            left -= count;
            gap = if from + count < to {
                Some((from + count, to))
            } else {
                gaps.next()
            };
        }
    }
    places.sort_by_key(|range| range.inside);
    (gap.is_none() && places.len() <= MAX_EXTENTS).then_some(places)
}

/// Whether a range has an end and contains neither root nor an account.
fn is_free((first, count): (u32, u32), own: u32, accounts: &BTreeSet<u32>) -> bool {
    // The last number stands for no id.
    let Some(end) = first.checked_add(count).filter(|_| first > 0 && count > 0) else {
        return false;
    };
    !(first..end).contains(&own) && accounts.range(first..end).next().is_none()
}

/// The ranges that share no id with an earlier one.
fn apart(ranges: impl Iterator<Item = (u32, u32)>) -> Vec<(u32, u32)> {
    let mut taken: Vec<(u32, u32)> = Vec::new();
    for range in ranges {
        if taken.len() < MAX_EXTENTS && !taken.iter().any(|other| meets(range, *other)) {
            taken.push(range);
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(subuid: &str, subgid: &str) -> Sources {
        Sources {
            passwd: "root:x:0:0::/root:/bin/sh\nme:x:1000:1001::/home/me:/bin/sh\n\
                     other:x:1002:1002::/home/other:/bin/sh\n"
                .to_owned(),
            group: "root:x:0:\nme:x:1001:\nother:x:1002:\n".to_owned(),
            subuid: subuid.to_owned(),
            subgid: subgid.to_owned(),
        }
    }

    fn mapped(subuid: &str) -> Option<Maps> {
        sources(subuid, "me:200000:65536\n").maps(1000, 1001).ok()
    }

    #[test]
    fn a_user_is_themselves_and_all_others_are_of_their_range() {
        let maps = mapped("other:1:1\nme:100000:65536\n").unwrap();
        assert_eq!(maps.outside_uid(0), Some(100_000));
        assert_eq!(maps.outside_uid(999), Some(100_999));
        assert_eq!(maps.outside_uid(1000), Some(1000));
        assert_eq!(maps.outside_uid(1001), Some(101_000));
        assert_eq!(maps.outside_uid(65_535), Some(165_534));
        assert_eq!(maps.outside_uid(65_536), None);
        assert_eq!(maps.outside_gid(1001), Some(1001));
        assert_eq!(maps.outside_gid(0), Some(200_000));
        let count: u32 = maps.uids.iter().map(|range| range.count).sum();
        assert_eq!(count, COUNT);
    }

    #[test]
    fn a_number_in_place_of_the_name_is_the_user_too() {
        assert_eq!(mapped("1000:100000:65536"), mapped("me:100000:65536"));
        assert!(mapped("10000:100000:65536\nm:100000:65536\n").is_none());
    }

    #[test]
    fn a_user_above_all_ids_of_a_container_needs_one_more() {
        let high = |count: u32| {
            let sources = Sources {
                subuid: format!("70000:100000:{count}"),
                subgid: format!("70000:100000:{count}"),
                ..Sources::default()
            };
            sources.maps(70_000, 70_000)
        };
        let maps = high(65_536).unwrap();
        assert_eq!(maps.outside_uid(70_000), Some(70_000));
        assert_eq!(maps.outside_uid(65_535), Some(165_535));
        assert!(high(65_535).is_err());
    }

    #[test]
    fn the_first_range_that_is_large_enough_is_taken_before_several() {
        let maps = mapped("me:100000:1000\nme:300000:70000\nme:500000:65536\n").unwrap();
        assert_eq!(maps.outside_uid(0), Some(300_000));
        let maps = mapped("me:100000:1000\nme:300000:40000\nme:500000:40000\n").unwrap();
        assert_eq!(maps.outside_uid(999), Some(100_999));
        assert_eq!(maps.outside_uid(1001), Some(300_000));
        assert_eq!(maps.outside_uid(65_535), Some(500_000 + 24_534));
    }

    #[test]
    fn a_range_with_root_or_an_account_in_it_is_not_used() {
        for hostile in [
            "me:0:65536",
            "me:1:65536",
            "me:500:100000",
            "me:1000:65536",
            "me:1002:65536",
            "me:4294967295:65536",
            "me:4294910000:65536",
            "me:100000:0",
            "me:100000:-1",
            "me:100000",
            "me:100000:65536:1",
            "me: 100000:65536",
            "me:100000:99999999999",
            ":100000:65536",
            "",
            "me:100000:40000\nme:120000:40000",
            "\0\u{fffd}:::\n::::",
        ] {
            assert_eq!(mapped(hostile), None, "{hostile:?}");
            let after = format!("{hostile}\nme:600000:65536\n");
            let maps = mapped(&after).unwrap();
            assert_eq!(maps.outside_uid(0), Some(600_000), "{hostile:?}");
        }
    }

    #[test]
    fn ranges_in_crumbs_have_an_end() {
        let crumbs: String = (0..70_000)
            .map(|number| format!("me:{}:1\n", 200_000 + 2 * number))
            .collect();
        assert_eq!(mapped(&crumbs), None);
    }

    #[test]
    fn a_user_without_a_range_is_told_how_to_get_one() {
        let refused = sources("", "").maps(1000, 1001).unwrap_err();
        assert!(refused.reason.contains("/etc/subuid"), "{refused:?}");
        assert!(
            refused.cure.contains("usermod --add-subuids"),
            "{refused:?}"
        );
        assert!(refused.cure.contains("} me`") || refused.cure.contains(" me`"));
        let refused = sources("me:100000:65536", "").maps(1000, 1001).unwrap_err();
        assert!(refused.reason.contains("/etc/subgid"), "{refused:?}");
    }

    #[test]
    fn a_group_that_newgidmap_would_refuse_is_told_before() {
        let whole = sources("me:100000:65536", "me:100000:65536");
        assert!(whole.maps(1000, 1001).is_ok());
        let refused = whole.maps(1000, 1002).unwrap_err();
        assert!(refused.reason.contains("1002"), "{refused:?}");
        let strangers = sources("3000:100000:65536", "3000:100000:65536");
        assert!(strangers.maps(3000, 3000).is_ok());
        assert!(strangers.maps(3000, 0).is_err());
    }
}
