//! Where this process stands in the control groups of the host.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};

use super::{CONTROLLERS, Controller, Place, Version};
use crate::error::{Error, Result};
use crate::file;

/// The longest of the files read here, in bytes.
const MAX: usize = 4 << 20;

/// The mounted hierarchies, and this process's group in each.
pub(super) struct Hierarchies {
    unified: Option<PathBuf>,
    /// The mount of version 2, above which no group of ours can be.
    top: PathBuf,
    legacy: Vec<(Controller, PathBuf)>,
}

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }
}

impl Hierarchies {
    pub(super) fn read() -> Result<Self> {
        let mounts = text("/proc/self/mountinfo")?;
        let groups = text("/proc/self/cgroup")?;
        if !groups.contains(':') {
            return Err(Error::refused("find any control group of this process"));
        }
        let mut found = Self {
            unified: None,
            top: PathBuf::new(),
            legacy: Vec::new(),
        };
        for line in groups.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(names), Some(path)) = (fields.next(), fields.next()) else {
                continue;
            };
            if names.is_empty() {
                if let Some((mount, own)) = directory(&mounts, "cgroup2", None, path) {
                    found.unified = Some(own);
                    found.top = mount;
                }
                continue;
            }
            for controller in CONTROLLERS {
                let named = names.split(',').any(|name| name == controller.name());
                if !named {
                    continue;
                }
                if let Some((_, own)) = directory(&mounts, "cgroup", Some(controller.name()), path)
                {
                    found.legacy.push((controller, own));
                }
            }
        }
        Ok(found)
    }

    /// A place for group `name` in version 2: beside this process's own group
    /// or below it, wherever controllers were handed down and we may write.
    pub(super) fn unified(&self, name: &str) -> Option<Place> {
        let own = self.unified.as_deref()?;
        let beside = own.parent().filter(|parent| parent.starts_with(&self.top));
        [beside, Some(own)]
            .into_iter()
            .flatten()
            .find_map(|parent| {
                let controllers = handed_down(parent);
                let usable = !controllers.is_empty()
                    && may_write(parent)
                    // Moving a process takes this right on the common ancestor.
                    && may_write(&parent.join("cgroup.procs"));
                usable.then(|| Place {
                    directory: parent.join(name),
                    home: own.to_owned(),
                    version: Version::V2,
                    controllers,
                })
            })
    }

    /// Places for group `name` in the hierarchies of version 1: below this
    /// process's own groups. One for controllers that are mounted together.
    pub(super) fn legacy(&self, name: &str) -> Vec<Place> {
        let mut places: Vec<Place> = Vec::new();
        for (controller, own) in &self.legacy {
            if !may_write(own) || !own.join("cgroup.procs").exists() {
                continue;
            }
            let directory = own.join(name);
            match places.iter_mut().find(|place| place.directory == directory) {
                Some(place) => place.controllers.push(*controller),
                None => places.push(Place {
                    directory,
                    home: own.clone(),
                    version: Version::V1,
                    controllers: vec![*controller],
                }),
            }
        }
        places
    }

    /// The mount of version 2 and this process's group in it, where no
    /// controller of ours is in version 1.
    pub(super) fn only_unified(self) -> Option<(PathBuf, PathBuf)> {
        let Self {
            unified,
            top,
            legacy,
        } = self;
        unified.filter(|_| legacy.is_empty()).map(|own| (top, own))
    }

    pub(super) fn why_none(&self) -> String {
        match (&self.unified, self.legacy.first()) {
            (Some(own), None) => format!(
                "this user may not make one with controllers at `{}`; a login session that \
                 delegates them (systemd-run --user --scope) would",
                own.display()
            ),
            (_, Some((_, own))) => {
                format!("this user may not make one in `{}`", own.display())
            }
            (None, None) => "none is mounted".to_owned(),
        }
    }
}

fn text(path: &str) -> Result<String> {
    let bytes = file::read_bounded(path, MAX)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The mount of a hierarchy, and in it the directory of group `path`.
fn directory(
    mounts: &str,
    kind: &str,
    controller: Option<&str>,
    path: &str,
) -> Option<(PathBuf, PathBuf)> {
    mounts.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        let (root, mount) = (front.next()?, front.next()?);
        let mut back = back.split(' ');
        if back.next()? != kind {
            return None;
        }
        let options = back.nth(1)?;
        if controller.is_some_and(|name| !options.split(',').any(|option| option == name)) {
            return None;
        }
        // Inside a container the mount shows only a part of the hierarchy.
        let below = Path::new(path).strip_prefix(root).ok()?;
        let mount = PathBuf::from(mount);
        let own = mount.join(below);
        own.is_dir().then_some((mount, own))
    })
}

fn handed_down(parent: &Path) -> Vec<Controller> {
    listed(&parent.join("cgroup.subtree_control"))
}

/// The controllers that a file of a group names.
pub(super) fn listed(path: &Path) -> Vec<Controller> {
    let Ok(bytes) = file::read_bounded(path, 4096) else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&bytes);
    CONTROLLERS
        .into_iter()
        .filter(|controller| {
            text.split_ascii_whitespace()
                .any(|name| name == controller.name())
        })
        .collect()
}

fn may_write(path: &Path) -> bool {
    rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}
