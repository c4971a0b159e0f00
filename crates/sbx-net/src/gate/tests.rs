//! What a guest does comes to what `policy check` says: whichever way the
//! guest goes, and whatever the rules are.

use domain::base::Message;
use domain::rdata::A;
use proptest::prelude::*;
use sbx_spec::{Action, CanonicalPath, Foreseen, Method, Origin, Trial, foresee, foresee_resolved};

use super::*;
use crate::entry::dns::{self, Carrier, Outcome};

/// What a program does, and how the outside is.
#[derive(Clone, Debug)]
struct World {
    rules: Vec<Rule>,
    host: Host,
    port: u16,
    protocol: Protocol,
    request: Option<(Method, Option<CanonicalPath>)>,
    /// What the name resolves to on the host.
    addresses: Vec<IpAddr>,
    /// Whether a proxy of the host's resolves names.
    elsewhere: bool,
}

const HOSTS: &[&str] = &[
    "a.example",
    "A.Example.",
    "b.a.example",
    "known.example",
    "localhost",
    "LOCALHOST.",
    "app.localhost",
    "host.sbx.internal",
    "host.docker.internal",
    "gateway.sbx.internal",
    "gateway.docker.internal",
    "other.sbx.internal",
    "x.invalid",
    "x.onion",
    "invalid.example",
    "use-application-dns.net",
    "4.3.2.10.in-addr.arpa",
    "198.19.255.1",
    "198.19.255.2",
    "198.19.255.254",
    "::ffff:198.19.255.254",
    "::ffff:198.19.255.1",
    "fd73:6278:7800::1",
    "fd73:6278:7800::fe",
    "fd73:6278:7800::2",
    "198.18.7.7",
    "8.8.8.8",
    "::ffff:8.8.8.8",
    "192.0.2.5",
    "10.1.2.3",
    "127.0.0.1",
    "::1",
    "0:0::0001",
    "::FFFF:7F00:1",
    "169.254.169.254",
    "64:ff9b::7f00:1",
    "2002:7f00:1::1",
    "2001:db8::1",
];

const RESOURCES: &[&str] = &[
    "a.example",
    "*.example",
    "**.example",
    "**",
    "localhost:3000",
    "localhost:53",
    "10.0.0.0/8",
    "192.0.2.0/24",
    "0.0.0.0/0",
    "8.8.8.8",
    "[::/0]:443",
    "**:443",
    "a.example:443",
    "a.example:80 GET",
    "**.example:443 GET /a/**",
    "localhost:3000 /a",
    "known.example",
    "198.18.0.0/15",
    "x.onion",
];

fn any_rule() -> impl Strategy<Value = Option<Rule>> {
    let action = prop::sample::select(vec![
        Action::Allow,
        Action::Allow,
        Action::Deny,
        Action::Ask,
        Action::Approve,
    ]);
    let resource = prop::sample::select(RESOURCES);
    (action, resource)
        .prop_map(|(action, resource)| Rule::read(action, resource, Origin::User).ok())
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    let texts = prop::sample::select(vec![
        "192.0.2.5",
        "8.8.8.8",
        "10.1.2.3",
        "127.0.0.1",
        "2001:db8::1",
        "64:ff9b::a01:203",
        "198.19.255.254",
    ]);
    prop_oneof![
        4 => texts.prop_map(|text| text.parse().unwrap()),
        1 => any::<u32>().prop_map(|bits| IpAddr::from(bits.to_be_bytes())),
        1 => any::<u128>().prop_map(|bits| IpAddr::from(bits.to_be_bytes())),
    ]
}

fn any_host() -> impl Strategy<Value = Host> {
    let own: Vec<IpAddr> = host_addresses().unwrap().into_iter().collect();
    prop_oneof![
        8 => prop::sample::select(HOSTS).prop_map(|text| text.parse().unwrap()),
        1 => any_address().prop_map(|address| Host::Address(address.to_canonical())),
        1 => prop::sample::select(own).prop_map(|own| Host::Address(own.to_canonical())),
    ]
}

fn any_world() -> impl Strategy<Value = World> {
    let request = (
        prop::sample::select(vec!["GET", "POST"]),
        prop::sample::select(vec!["/a", "/a/b", "/b", "/a/../b"]),
    );
    let request = request.prop_map(|(method, path)| (method.parse().unwrap(), path.parse().ok()));
    (
        prop::collection::vec(any_rule(), 0..7),
        any_host(),
        prop::sample::select(vec![1_u16, 53, 80, 443, 853, 1080, 3000, 3128]),
        prop::sample::select(vec![Protocol::Tcp, Protocol::Tcp, Protocol::Udp]),
        prop::option::of(request),
        prop::collection::vec(any_address(), 0..4),
        any::<bool>(),
    )
        .prop_map(
            |(rules, host, port, protocol, request, addresses, elsewhere)| World {
                rules: rules.into_iter().flatten().collect(),
                host,
                port,
                protocol,
                request,
                addresses,
                elsewhere,
            },
        )
}

fn known(names: &mut Names) {
    names.address(&"known.example".parse().unwrap()).unwrap();
}

impl World {
    fn request(&self) -> Option<HttpRequest<'_>> {
        let (method, path) = self.request.as_ref()?;
        let path = path.as_ref();
        Some(HttpRequest { method, path })
    }

    /// What `policy check` says.
    fn checked(&self) -> (Answer, String) {
        let policy = Policy {
            rules: self.rules.iter().cloned().map(Arc::new).collect(),
            host_addresses: host_addresses().unwrap(),
        };
        let mut names = Names::default();
        known(&mut names);
        let request = self.request();
        let trial = Trial {
            host: &self.host,
            port: self.port,
            protocol: self.protocol,
            request: request.as_ref(),
        };
        let verdict = match foresee(&policy, &trial, |v4| names.name(v4).cloned()) {
            Foreseen::Settled(verdict) => verdict,
            Foreseen::Resolve(name, flow) => {
                let named = (&name, &flow);
                foresee_resolved(&policy, &trial, named, &self.addresses, self.elsewhere)
            }
        };
        (verdict.answer, verdict.reason.to_string())
    }

    /// What comes of a packet to where the guest's name server says; `None`
    /// where there is no such packet.
    fn by_packet(&self) -> Option<(Answer, String)> {
        let mut names = Names::default();
        known(&mut names);
        let address = match &self.host {
            Host::Address(address) => *address,
            Host::Name(name) => match answered(name, &mut names) {
                // That is the guest itself.
                Some(address) if address.is_loopback() => return None,
                Some(address) => IpAddr::V4(address),
                None => return Some((Answer::Deny, RESERVED_NAME.to_owned())),
            },
        };
        if layout::is_gateway(address) && self.port == 53 {
            return Some((Answer::Allow, "gateway:name-server".to_owned()));
        }
        let proxies = [layout::HTTP_PROXY, layout::SOCKS_PROXY];
        if layout::is_gateway(address)
            && self.protocol == Protocol::Tcp
            && proxies.contains(&self.port)
        {
            return Some((Answer::Allow, "gateway:proxy".to_owned()));
        }
        let intent = Intent::new(self.protocol, address, self.port, &names);
        Some(self.judged(&intent, None))
    }

    /// What comes of asking a proxy of the gateway for it; `None` where it is
    /// not asked for that.
    fn by_proxy(&self) -> Option<(Answer, String)> {
        if self.protocol != Protocol::Tcp || [53, 1080, 3128].contains(&self.port) {
            return None;
        }
        let mut names = Names::default();
        known(&mut names);
        let (intent, denied) = Intent::asked(&self.host, self.port, &names);
        Some(self.judged(&intent, denied))
    }

    /// The engine's steps.
    fn judged(&self, intent: &Intent, denied: Option<Reason>) -> (Answer, String) {
        let now = Instant::now();
        let mut gate = Gate::default();
        gate.replace_rules(self.rules.clone());
        let mut decision = match denied {
            Some(reason) => Decision::Deny(reason),
            None => gate.judge(intent, now),
        };
        if let Decision::Resolve(name) = &decision {
            decision = if self.addresses.is_empty() && self.elsewhere {
                gate.judge_unresolved(intent, now)
            } else {
                gate.judge_resolved(intent, &name.clone(), &self.addresses, now)
            };
        }
        let passes = match decision {
            Decision::Deny(reason) => return (Answer::Deny, reason.to_string()),
            Decision::Ask(_, reason) => return (Answer::Ask, reason.to_string()),
            Decision::Dial(passes) => passes,
            Decision::Answer | Decision::Resolve(_) => panic!("{decision:?}"),
        };
        let pass = &passes[0];
        let flow = match pass.ip() {
            Some(address) => intent.dialled(address),
            None => intent.flow.clone(),
        };
        match self.request().filter(|_| pass.inspect()) {
            Some(request) => {
                let verdict = gate.judge_of_requests().request(&flow, &request);
                (verdict.answer, verdict.reason.to_string())
            }
            None if pass.inspect() => (Answer::Inspect, pass.reason().to_string()),
            None => (Answer::Allow, pass.reason().to_string()),
        }
    }
}

/// What the name server inside answers.
fn answered(name: &DnsName, names: &mut Names) -> Option<Ipv4Addr> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.as_str().split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    let Some(Outcome::Reply(reply)) = dns::answer(&query, names, Carrier::Udp) else {
        panic!("{name}")
    };
    let message = Message::from_octets(&reply.message[..]).unwrap();
    let mut found = message.answer().unwrap().limit_to::<A>();
    found.next().map(|record| record.unwrap().data().addr())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn policy_check_says_what_becomes_of_a_packet_and_of_a_proxied_request(world in any_world()) {
        let checked = world.checked();
        if let Some(done) = world.by_packet() {
            prop_assert_eq!(&done, &checked, "by packet");
        }
        if let Some(done) = world.by_proxy() {
            prop_assert_eq!(&done, &checked, "by proxy");
        }
    }
}
