//! What the guest is told once it is up.

use std::time::{SystemTime, UNIX_EPOCH};

use sbx_net::layout::{GATEWAY_V4, GATEWAY_V6, GUEST_V4, GUEST_V6};
use sbx_net::limits::MTU;
use sbx_proto::link::{
    AgentUser, Disks, KitDisk, NetSetup, Setup, ShareMount, TmpfsMount, VolumeMount,
};
use sbx_spec::Access;

use crate::plan::Plan;

/// Nanoseconds since 1970.
pub(crate) fn clock_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |passed| {
            u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX)
        })
}

/// The set-up message of a plan. `files` names, for each share, the file of
/// a share of one file, `authority` the certificate of the sandbox's own.
pub(crate) fn message(plan: &Plan, files: &[Option<Vec<u8>>], authority: Option<&str>) -> Setup {
    let guest = &plan.guest;
    let shares = plan
        .shares
        .iter()
        .zip(files)
        .map(|(share, file)| ShareMount {
            tag: share.tag.clone(),
            guest_path: share.guest.as_bytes().to_vec().into(),
            read_only: share.access == Access::ReadOnly,
            file: file.clone().map(Into::into),
        });
    let kits = guest.kits.iter().map(|kit| KitDisk {
        serial: format!("kit-{kit}"),
        mount_point: format!("/opt/sbx/kits/{kit}"),
    });
    let volumes = guest.volumes.iter().map(|volume| VolumeMount {
        name: volume.name.clone(),
        guest_path: volume.guest.as_bytes().to_vec().into(),
    });
    let tmpfs = guest.tmpfs.iter().map(|mount| TmpfsMount {
        guest_path: mount.guest.as_bytes().to_vec().into(),
        size: mount.size.map(sbx_spec::ByteSize::as_bytes),
    });
    let env = guest.env.iter().map(|variable| {
        let bytes = |text: &str| text.as_bytes().to_vec().into();
        (bytes(&variable.name), bytes(&variable.value))
    });
    Setup {
        generation: sbx_proto::GENERATION,
        hostname: plan.name.to_string(),
        clock_ns: clock_ns(),
        timezone: guest.timezone.clone(),
        agent: AgentUser {
            uid: plan.identity.agent.0,
            gid: plan.identity.agent.1,
            groups: Vec::new(),
        },
        disks: Disks {
            base: "base".to_owned(),
            scratch: Some("scratch".to_owned()),
        },
        kits: kits.collect(),
        shares: shares.collect(),
        volumes: volumes.collect(),
        tmpfs: tmpfs.collect(),
        network: plan.network.as_ref().map(|_| addresses()),
        trust_pem: [&guest.trust_pem, authority.unwrap_or_default()]
            .concat()
            .into_bytes()
            .into(),
        pids_limit: Some(guest.pids),
        memory_limit: None,
        env: env.collect(),
        workdir: Some(guest.workdir.as_bytes().to_vec().into()),
        git_config: guest
            .git_config
            .clone()
            .map(|text| text.into_bytes().into()),
    }
}

/// The interface inside.
pub(crate) fn addresses() -> NetSetup {
    NetSetup {
        v4: GUEST_V4,
        v4_prefix: 24,
        v4_gateway: GATEWAY_V4,
        v6: GUEST_V6,
        v6_prefix: 64,
        v6_gateway: GATEWAY_V6,
        dns: vec![GATEWAY_V4.into()],
        mtu: u32::try_from(MTU).unwrap_or(1500),
        hosts: Vec::new(),
    }
}
