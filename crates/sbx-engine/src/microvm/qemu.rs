//! QEMU's command line for a planned machine.
//!
//! Owns: which devices a guest sees. There are no others: no PCI, no
//! firmware beyond the boot stub, no default device, no user configuration.
//! Every link to the outside is a descriptor that was opened before QEMU
//! started, so that it needs no path and no socket of its own.

use sbx_net::layout::GUEST_MAC;
use sbx_net::limits::MTU;

use crate::plan::{Accelerator, Machine};

/// Descriptors of the machine monitor, from 4 on in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Descriptors {
    /// The control link to PID 1.
    pub(crate) control: i32,
    /// The machine protocol.
    pub(crate) qmp: i32,
    /// The kernel's console.
    pub(crate) console: i32,
    /// The kernel's image.
    pub(crate) kernel: i32,
    /// The initial file system.
    pub(crate) initrd: i32,
    /// One for each disk.
    pub(crate) disks: Vec<i32>,
    /// Ethernet frames.
    pub(crate) network: Option<i32>,
    /// One for each share.
    pub(crate) shares: Vec<i32>,
}

impl Descriptors {
    /// Numbers for a machine of so many disks and shares.
    pub(crate) fn number(disks: usize, network: bool, shares: usize) -> Self {
        let mut next = 4..;
        let mut take = || next.next().unwrap_or(i32::MAX);
        Self {
            control: take(),
            qmp: take(),
            console: take(),
            kernel: take(),
            initrd: take(),
            disks: (0..disks).map(|_| take()).collect(),
            network: network.then(&mut take),
            shares: (0..shares).map(|_| take()).collect(),
        }
    }
}

/// The arguments after the program's name. `tags` name the shares.
pub(crate) fn arguments(machine: &Machine, fds: &Descriptors, tags: &[String]) -> Vec<String> {
    let mut line = Line(Vec::new());
    let memory = machine.memory.as_mib();
    let (accel, cpu) = match machine.accelerator {
        // No virtualisation within: nested guests are a way to the host's
        // kernel that nobody asked for.
        Accelerator::Kvm => ("kvm".to_owned(), "host,vmx=off,svm=off"),
        Accelerator::Tcg => (
            format!("tcg,thread=multi,tb-size={}", tb_size(memory)),
            "max,svm=off",
        ),
    };
    line.add(
        "-machine",
        "microvm,acpi=on,rtc=on,pit=on,pic=on,isa-serial=on,x-option-roms=off,usb=off,pcie=off,\
         graphics=off,dump-guest-core=off,mem-merge=off,memory-backend=mem",
    );
    // Virtio 1, not its legacy form, which has less to say in its own
    // defence and which vhost-user back ends need not know.
    line.add("-global", "virtio-mmio.force-legacy=false");
    line.add("-accel", &accel);
    line.add("-cpu", cpu);
    line.add("-smp", &machine.cpus.to_string());
    line.add("-m", &format!("{memory}M"));
    // Shared, because the file servers read and write the guest's buffers.
    line.add(
        "-object",
        &format!("memory-backend-memfd,id=mem,size={memory}M,share=on,seal=on"),
    );
    for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        line.0.push(flag.to_owned());
    }
    for flag in ["-display", "-monitor", "-parallel"] {
        line.add(flag, "none");
    }
    line.add(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    line.add("-kernel", &format!("/proc/self/fd/{}", fds.kernel));
    line.add("-initrd", &format!("/proc/self/fd/{}", fds.initrd));
    line.add("-append", &kernel_arguments(machine));
    line.add("-chardev", &format!("socket,id=qmp,fd={}", fds.qmp));
    line.add("-mon", "chardev=qmp,mode=control");
    line.add("-chardev", &format!("socket,id=console,fd={}", fds.console));
    line.add("-serial", "chardev:console");
    line.add("-device", "virtio-serial-device,max_ports=2");
    line.add("-chardev", &format!("socket,id=control,fd={}", fds.control));
    line.add("-device", "virtserialport,chardev=control,name=sbx.control");
    for (number, (disk, fd)) in machine.disks.iter().zip(&fds.disks).enumerate() {
        let mode = if disk.writable { "off" } else { "on" };
        line.add("-add-fd", &format!("fd={fd},set={number}"));
        line.add(
            "-blockdev",
            &format!(
                "driver=file,node-name=f{number},filename=/dev/fdset/{number},\
                 read-only={mode},auto-read-only=off,locking=off,discard=unmap"
            ),
        );
        line.add(
            "-blockdev",
            &format!(
                "driver=raw,node-name=d{number},file=f{number},read-only={mode},discard=unmap"
            ),
        );
        // A full or failing host is an error inside: by default the monitor
        // would stop the machine, for ever.
        line.add(
            "-device",
            &format!(
                "virtio-blk-device,drive=d{number},serial={},werror=report,rerror=report",
                disk.serial
            ),
        );
    }
    if let Some(fd) = fds.network {
        line.add(
            "-netdev",
            &format!("dgram,id=net,local.type=fd,local.str={fd}"),
        );
        line.add(
            "-device",
            &format!("virtio-net-device,netdev=net,mac={},host_mtu={MTU}", mac()),
        );
    }
    for (tag, fd) in tags.iter().zip(&fds.shares) {
        line.add("-chardev", &format!("socket,id={tag},fd={fd}"));
        line.add(
            "-device",
            &format!("vhost-user-fs-device,chardev={tag},tag={tag},queue-size=1024"),
        );
    }
    line.add("-device", "virtio-rng-device");
    line.add(
        "-device",
        "virtio-balloon-device,free-page-reporting=on,deflate-on-oom=on",
    );
    line.0
}

/// Arguments of the guest kernel. The time stamp counter's rate is given
/// because a guest that has to measure it under emulation on a busy host
/// sometimes never gets past doing so.
fn kernel_arguments(machine: &Machine) -> String {
    let mut text = "console=ttyS0 quiet loglevel=4 panic=-1 reboot=t \
                    no_timer_check random.trust_cpu=on"
        .to_owned();
    if let (Accelerator::Tcg, Some(khz)) = (machine.accelerator, machine.tsc_khz) {
        text.push_str(&format!(" tsc_early_khz={khz}"));
    }
    text
}

/// Memory for translated code, in MiB: QEMU's own default is up to 1 GiB.
fn tb_size(memory: u64) -> u64 {
    (memory / 16).clamp(24, 256)
}

fn mac() -> String {
    GUEST_MAC.0.map(|byte| format!("{byte:02x}")).join(":")
}

struct Line(Vec<String>);

impl Line {
    fn add(&mut self, flag: &str, value: &str) {
        self.0.push(flag.to_owned());
        self.0.push(value.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use sbx_spec::ByteSize;

    use super::*;
    use crate::plan::Disk;

    fn machine(accelerator: Accelerator) -> Machine {
        let disk = |serial: &str, writable| Disk {
            serial: serial.to_owned(),
            path: format!("/images/{serial}").into(),
            writable,
        };
        Machine {
            program: "/usr/bin/qemu-system-x86_64".into(),
            accelerator,
            cpus: 2,
            memory: ByteSize::mib(512),
            tsc_khz: Some(2_600_000),
            kernel: "/images/vmlinux".into(),
            initrd: "/images/initrd".into(),
            disks: vec![disk("base", false), disk("scratch", true)],
        }
    }

    fn line(accelerator: Accelerator) -> Vec<String> {
        let fds = Descriptors::number(2, true, 1);
        arguments(&machine(accelerator), &fds, &["s0".to_owned()])
    }

    fn after<'a>(line: &'a [String], flag: &str) -> Vec<&'a str> {
        line.windows(2)
            .filter(|two| two[0] == flag)
            .map(|two| two[1].as_str())
            .collect()
    }

    #[test]
    fn every_descriptor_has_one_number_and_none_is_shared() {
        let fds = Descriptors::number(3, true, 2);
        let mut all = vec![fds.control, fds.qmp, fds.console, fds.kernel, fds.initrd];
        all.extend(&fds.disks);
        all.extend(fds.network);
        all.extend(&fds.shares);
        assert_eq!(all, (4..4 + 11).collect::<Vec<_>>());
    }

    #[test]
    fn a_guest_sees_these_devices_and_no_others() {
        let line = line(Accelerator::Kvm);
        let devices: Vec<_> = after(&line, "-device")
            .iter()
            .map(|device| device.split(',').next().unwrap_or_default())
            .collect();
        assert_eq!(
            devices,
            [
                "virtio-serial-device",
                "virtserialport",
                "virtio-blk-device",
                "virtio-blk-device",
                "virtio-net-device",
                "vhost-user-fs-device",
                "virtio-rng-device",
                "virtio-balloon-device",
            ]
        );
        assert!(line.contains(&"-nodefaults".to_owned()));
        assert!(line.contains(&"-no-user-config".to_owned()));
    }

    #[test]
    fn qemu_is_given_no_path_to_open() {
        for word in line(Accelerator::Tcg) {
            assert!(!word.contains("/images/"), "{word}");
        }
    }

    #[test]
    fn a_read_only_disk_is_so_in_every_layer() {
        let line = line(Accelerator::Kvm);
        let layers = after(&line, "-blockdev");
        let of = |number: usize| {
            let name = format!("node-name=f{number},");
            let raw = format!("node-name=d{number},");
            layers
                .iter()
                .filter(move |layer| layer.contains(&name) || layer.contains(&raw))
        };
        assert!(of(0).all(|layer| layer.contains("read-only=on")));
        assert!(of(1).all(|layer| layer.contains("read-only=off")));
    }

    #[test]
    fn no_guest_is_offered_virtualisation_of_its_own() {
        assert_eq!(
            after(&line(Accelerator::Kvm), "-cpu"),
            ["host,vmx=off,svm=off"]
        );
        assert_eq!(after(&line(Accelerator::Tcg), "-cpu"), ["max,svm=off"]);
    }

    #[test]
    fn an_emulated_guest_is_told_its_clock_rate() {
        assert!(after(&line(Accelerator::Tcg), "-append")[0].contains("tsc_early_khz=2600000"));
        assert!(!after(&line(Accelerator::Kvm), "-append")[0].contains("tsc_early_khz"));
    }
}
