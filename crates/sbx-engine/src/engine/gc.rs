//! `gc`: gives back what nothing needs.

use std::path::Path;
use std::time::Duration;

use sbx_images::{CacheUse, ItemState};

use super::Engine;
use super::prepare::image_error;
use crate::command::{Error, GcItem, GcReply, GcRequest, Reply};
use crate::store::State;

/// How long nobody must have asked for an image before it goes.
const IDLE: Duration = Duration::from_secs(30 * 86_400);

impl Engine {
    pub(super) async fn gc(&self, request: GcRequest) -> Result<Reply, Error> {
        let mut items = Vec::new();
        self.after_crashes(request.dry_run, &mut items).await?;
        self.half_made(request.dry_run, &mut items)?;
        self.stray_sockets(request.dry_run, &mut items)?;
        for what in self.stray_containers(request.dry_run).await? {
            items.push(GcItem {
                what,
                path: None,
                bytes: 0,
            });
        }
        self.images(request.dry_run, &mut items)?;
        let freed = items.iter().map(|item| item.bytes).sum();
        Ok(Reply::Gc(GcReply {
            dry_run: request.dry_run,
            items,
            freed,
        }))
    }

    /// Records of supervisors that were killed.
    async fn after_crashes(&self, dry_run: bool, items: &mut Vec<GcItem>) -> Result<(), Error> {
        for sandbox in self.store().list()? {
            match sandbox.state() {
                Ok(State::Crashed(_)) => {}
                Ok(State::Stopped) if crate::group::is_left(&sandbox) => {}
                _ => continue,
            }
            items.push(GcItem {
                what: format!("what a killed supervisor of `{}` left", sandbox.name()),
                path: Some(sandbox.join("")),
                bytes: 0,
            });
            if !dry_run {
                self.tidy(&sandbox)?;
                // An engine that is not there has nothing that runs.
                let _ = self.end_containers(&sandbox).await;
            }
        }
        Ok(())
    }

    /// Sandboxes that a killed command had not finished making or removing.
    fn half_made(&self, dry_run: bool, items: &mut Vec<GcItem>) -> Result<(), Error> {
        if !self.directories.sandboxes().is_dir() {
            return Ok(());
        }
        for path in self.store().leftovers()? {
            let bytes = bytes_on_disk(&path);
            if !dry_run && crate::store::erase(&path).is_err() {
                continue;
            }
            items.push(GcItem {
                what: "a sandbox that was half made or half removed".to_owned(),
                path: Some(path),
                bytes,
            });
        }
        Ok(())
    }

    /// Socket directories without a live sandbox.
    fn stray_sockets(&self, dry_run: bool, items: &mut Vec<GcItem>) -> Result<(), Error> {
        let Ok(entries) = std::fs::read_dir(&self.directories.runtime) else {
            return Ok(());
        };
        for entry in entries.flatten() {
            let name = entry
                .file_name()
                .to_str()
                .and_then(|text| text.parse().ok());
            let Some(name) = name else { continue };
            let live = self
                .store()
                .find(&name)
                .is_some_and(|sandbox| !matches!(sandbox.state(), Ok(State::Stopped)));
            if live || (!dry_run && std::fs::remove_dir_all(entry.path()).is_err()) {
                continue;
            }
            items.push(GcItem {
                what: "sockets of a sandbox that is not there".to_owned(),
                path: Some(entry.path()),
                bytes: 0,
            });
        }
        Ok(())
    }

    fn images(&self, dry_run: bool, items: &mut Vec<GcItem>) -> Result<(), Error> {
        let cache = self.cache()?;
        let mut used = CacheUse::default();
        let failed = |error: sbx_images::Error| image_error(&error);
        if let Some(kernel) = sbx_images::present_kernel(&cache, &self.host()).map_err(failed)? {
            used.add(kernel.image.key);
        }
        if let Some(base) = sbx_images::present_base(&cache).map_err(failed)? {
            used.add(base.image.key);
        }
        for name in Self::kit_names() {
            if let Some(image) = self.kit(&name)?.present_image(&cache).map_err(failed)? {
                used.add(image.key);
            }
        }
        for tree in self.trees(&cache)? {
            used.add(tree.key);
        }
        for item in cache.unused(&used, IDLE).map_err(failed)? {
            if !dry_run && !cache.remove(&item).map_err(failed)? {
                continue;
            }
            let why = match item.state {
                ItemState::Entry => "not used for 30 days",
                ItemState::Work => "unfinished",
                ItemState::Stale => "left by a process that was killed",
            };
            items.push(GcItem {
                what: format!("{} ({why})", item.kind),
                path: Some(item.path().to_owned()),
                bytes: item.bytes,
            });
        }
        Ok(())
    }
}

fn bytes_on_disk(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(found) = path.symlink_metadata() else {
        return 0;
    };
    let mut bytes = found.blocks().saturating_mul(512);
    if found.is_dir()
        && let Ok(entries) = std::fs::read_dir(path)
    {
        bytes += entries
            .flatten()
            .map(|entry| bytes_on_disk(&entry.path()))
            .sum::<u64>();
    }
    bytes
}
