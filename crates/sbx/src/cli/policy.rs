//! `sbx policy`: what sandboxes may reach.

use clap::{Args, Subcommand, ValueEnum};
use sbx_engine::command::{
    AuditRequest, CheckedRequest, Code, Command, Error, PolicyCheck, PolicyRequest, PolicyScope,
    QuestionId, RuleChoice, Saying,
};
use sbx_spec::{
    Action, Host, HostPort, HttpCondition, Method, NetworkPreset, Origin, PathGlob, Resource, Rule,
    SandboxName, Transport,
};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::sandbox::{value, wrong};

/// Show and change what sandboxes may reach
///
/// `deny` beats `ask`, `ask` beats `allow`, and what no rule is about is
/// denied. A change counts at once in running sandboxes. Example: sbx policy allow network example.com
#[derive(Args, Debug)]
pub(crate) struct PolicyFlags {
    #[command(subcommand)]
    verb: PolicyVerb,
}

#[derive(Subcommand, Debug)]
enum PolicyVerb {
    /// Choose the preset that all sandboxes start from
    ///
    /// Sandboxes made with --network keep their own.
    /// Example: sbx policy init balanced
    Init {
        /// The preset; allow-all is open, deny-all is locked
        #[arg(value_name = "PRESET")]
        preset: PresetWord,
    },
    /// Allow hosts, addresses or ports of this host
    ///
    /// Example: sbx policy allow network example.com,**.example.org:443
    Allow(AllowFlags),
    /// Deny hosts or addresses, whatever else allows them
    ///
    /// Open connections to them end.
    /// Example: sbx policy deny network **.example.net
    Deny(RuleFlags),
    /// Have sandboxes ask about hosts, addresses or ports of this host
    ///
    /// What asks waits for up to 30 s, and is denied then. Example:
    /// sbx policy ask network example.com
    Ask(RuleFlags),
    /// List what sandboxes wait for an answer to
    ///
    /// Example: sbx policy pending
    Pending {
        /// The sandbox [default: all]
        #[arg(value_name = "NAME")]
        sandbox: Option<String>,
    },
    /// Let what waits go on
    ///
    /// Example: sbx policy approve claude-app:4711 --always
    Approve(ApproveFlags),
    /// Deny what waits
    ///
    /// Example: sbx policy dismiss claude-app:4711
    Dismiss {
        /// The question, as `sbx policy pending` shows it
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Remove rules
    ///
    /// Example: sbx policy rm --resource example.com
    Rm(RmFlags),
    /// List the rules that count, and where each was written
    ///
    /// Example: sbx policy ls claude-app
    Ls {
        /// The sandbox [default: those that say nothing themselves]
        #[arg(value_name = "NAME")]
        sandbox: Option<String>,

        /// List the rules of the preset one by one
        #[arg(long)]
        wide: bool,
    },
    /// Show what was judged, and how much allowed connections carried
    ///
    /// Example: sbx policy log claude-app --denied --since 10m
    Log(LogFlags),
    /// Say what would come of a connection, and which rule decides
    ///
    /// Exits 1 if it would be denied. Example: sbx policy check example.com:443
    Check {
        /// HOST, HOST:PORT or an address of the web
        #[arg(value_name = "TARGET")]
        target: String,

        /// Over this transport
        #[arg(long, value_name = "PROTOCOL", default_value = "tcp")]
        protocol: TransportWord,

        /// Ask about a request of this method [default: GET, with a path]
        #[arg(long, value_name = "METHOD")]
        method: Option<String>,

        /// Ask about a request for this path [default: that of the address]
        #[arg(long, value_name = "PATH")]
        path: Option<String>,

        /// Ask for this sandbox
        #[arg(long, value_name = "NAME")]
        sandbox: Option<String>,
    },
}

#[derive(Args, Debug)]
struct LogFlags {
    /// The sandbox [default: all]
    #[arg(value_name = "NAME")]
    sandbox: Option<String>,

    /// Go on until interrupted
    #[arg(short, long)]
    follow: bool,

    /// Only from then on: so long ago (30s, 10m, 2h, 1d), or a time such as
    /// 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,

    /// Only what was denied
    #[arg(long)]
    denied: bool,

    /// Only the last N records [default: 1000]
    #[arg(long, value_name = "N")]
    limit: Option<String>,
}

#[derive(Clone, Copy, ValueEnum, Debug)]
enum PresetWord {
    /// Everything but this host and its surroundings.
    #[value(alias = "allow-all")]
    Open,
    /// What programming commonly needs.
    Balanced,
    /// What rules allow, and nothing else.
    #[value(alias = "deny-all")]
    Locked,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum TransportWord {
    /// Connections.
    Tcp,
    /// Datagrams: single questions and their answers.
    Udp,
}

impl From<TransportWord> for Transport {
    fn from(word: TransportWord) -> Self {
        match word {
            TransportWord::Tcp => Self::Tcp,
            TransportWord::Udp => Self::Udp,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum What {
    /// What can be reached over the network.
    Network,
}

#[derive(Args, Debug)]
struct RuleFlags {
    /// What the rule is about
    #[arg(value_name = "network")]
    what: What,

    /// HOST, *.HOST, **.HOST, a range or localhost, each with :PORT if need be
    #[arg(value_name = "RESOURCE", value_delimiter = ',', required = true)]
    resources: Vec<String>,

    /// Only over this transport [default: tcp; of a denial, all]
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<TransportWord>,

    /// Only requests of HTTP with these methods
    #[arg(long = "method", value_name = "METHOD", value_delimiter = ',')]
    methods: Vec<String>,

    /// Only requests for these paths: * is one segment, ** any number
    #[arg(long, value_name = "GLOB")]
    path: Option<String>,

    /// For this sandbox alone
    #[arg(long, value_name = "NAME")]
    sandbox: Option<String>,
}

#[derive(Args, Debug)]
struct AllowFlags {
    #[command(flatten)]
    rule: RuleFlags,

    /// Look into every connection there, whatever else allows it: only HTTP
    /// passes, and each request has to be to the connection's own server
    #[arg(long)]
    inspect: bool,
}

#[derive(Args, Debug)]
struct ApproveFlags {
    /// The question, as `sbx policy pending` shows it
    #[arg(value_name = "ID")]
    id: String,

    /// This time: what waits, and what asks the same within 30 s [default]
    #[arg(long, conflicts_with = "always")]
    once: bool,

    /// For good: adds a rule to the sandbox's own policy
    #[arg(long)]
    always: bool,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false, id = "which")]
struct Which {
    /// The rule of this name, as `sbx policy ls` shows it
    #[arg(long, value_name = "ID")]
    id: Option<String>,

    /// Every rule about exactly this
    #[arg(long, value_name = "RESOURCE")]
    resource: Option<String>,
}

#[derive(Args, Debug)]
struct RmFlags {
    #[command(flatten)]
    which: Which,

    /// From the policy of this sandbox
    #[arg(long, value_name = "NAME")]
    sandbox: Option<String>,
}

impl PolicyFlags {
    /// Whether a list shows every rule.
    pub(crate) fn wide(&self) -> bool {
        matches!(self.verb, PolicyVerb::Ls { wide: true, .. })
    }

    pub(super) fn command(self) -> Result<Command, Error> {
        let request = match self.verb {
            PolicyVerb::Init { preset } => PolicyRequest::Init(match preset {
                PresetWord::Open => NetworkPreset::Open,
                PresetWord::Balanced => NetworkPreset::Balanced,
                PresetWord::Locked => NetworkPreset::Locked,
            }),
            PolicyVerb::Allow(flags) => flags.rule.request(Action::Allow, flags.inspect)?,
            PolicyVerb::Deny(flags) => flags.request(Action::Deny, false)?,
            PolicyVerb::Ask(flags) => flags.request(Action::Ask, false)?,
            PolicyVerb::Pending { sandbox } => {
                PolicyRequest::Pending(value("NAME", sandbox.as_deref())?)
            }
            PolicyVerb::Approve(flags) => {
                let saying = match (flags.once, flags.always) {
                    (_, true) => Saying::Always,
                    (_, false) => Saying::Once,
                };
                PolicyRequest::Answer(question(&flags.id)?, saying)
            }
            PolicyVerb::Dismiss { id } => PolicyRequest::Answer(question(&id)?, Saying::No),
            PolicyVerb::Rm(flags) => {
                let choice = match (&flags.which.id, &flags.which.resource) {
                    (Some(id), _) => RuleChoice::Id(
                        id.parse()
                            .map_err(|_| wrong("--id", id, &"it has eight hexadecimal digits"))?,
                    ),
                    (None, Some(text)) => RuleChoice::Resource(resource("--resource", text)?),
                    (None, None) => return Err(Error::new(Code::Usage, "no rule is named")),
                };
                PolicyRequest::Remove(scope(flags.sandbox.as_deref())?, choice)
            }
            PolicyVerb::Ls { sandbox, .. } => {
                PolicyRequest::List(value("NAME", sandbox.as_deref())?)
            }
            PolicyVerb::Log(flags) => PolicyRequest::Log(flags.request()?),
            PolicyVerb::Check {
                target: text,
                protocol,
                method,
                path,
                sandbox,
            } => {
                let (host, port, own_path) = target(&text)?;
                let path = path.or(own_path);
                let asks = method.is_some() || path.is_some();
                let method = method.as_deref().unwrap_or("GET");
                let request = asks.then(|| {
                    Ok(CheckedRequest {
                        method: method
                            .parse()
                            .map_err(|error| wrong("--method", method, &error))?,
                        target: path.unwrap_or_else(|| "/".to_owned()),
                    })
                });
                let sandbox: Option<SandboxName> = value("--sandbox", sandbox.as_deref())?;
                PolicyRequest::Check(PolicyCheck {
                    host,
                    port,
                    transport: protocol.into(),
                    request: request.transpose()?,
                    sandbox,
                })
            }
        };
        Ok(Command::Policy(request))
    }
}

/// Records that are shown where nobody says how many.
const RECORDS: usize = 1_000;

impl LogFlags {
    fn request(&self) -> Result<AuditRequest, Error> {
        let now = OffsetDateTime::now_utc();
        let since = self.since.as_deref().map(|text| {
            moment(text, now).ok_or_else(|| {
                wrong(
                    "--since",
                    text,
                    &"a time is 30s, 10m, 2h, 1d or 2026-01-31T12:00:00Z",
                )
            })
        });
        Ok(AuditRequest {
            sandbox: value("NAME", self.sandbox.as_deref())?,
            follow: self.follow,
            since_ms: since.transpose()?,
            denied: self.denied,
            limit: value("--limit", self.limit.as_deref())?.unwrap_or(RECORDS),
        })
    }
}

/// Milliseconds since 1970 of a time, or of so long before `now`.
fn moment(text: &str, now: OffsetDateTime) -> Option<u64> {
    let at = match OffsetDateTime::parse(text, &Rfc3339) {
        Ok(at) => at,
        Err(_) => {
            let unit = text.chars().last()?;
            let seconds = match unit {
                's' => 1,
                'm' => 60,
                'h' => 3_600,
                'd' => 86_400,
                _ => return None,
            };
            let count: u32 = text.strip_suffix(unit)?.parse().ok()?;
            now.checked_sub(time::Duration::seconds(i64::from(count) * seconds))?
        }
    };
    u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()
}

impl RuleFlags {
    fn request(&self, action: Action, inspect: bool) -> Result<PolicyRequest, Error> {
        let What::Network = self.what;
        let scope = scope(self.sandbox.as_deref())?;
        let origin = match scope {
            PolicyScope::User => Origin::User,
            PolicyScope::Sandbox(_) => Origin::Sandbox,
        };
        let http = self.http()?;
        let transport = self.protocol.map(Transport::from);
        let is_http = http.is_some() || inspect;
        if is_http && transport == Some(Transport::Udp) {
            let message = "`--method`, `--path` and `--inspect` are about HTTP over TCP";
            return Err(Error::new(Code::Usage, message));
        }
        // A rule about requests is about TCP as it is.
        let transport = transport.filter(|_| !is_http);
        let rules = self
            .resources
            .iter()
            .map(|text| {
                let rule = rule("RESOURCE", action, text, origin.clone())?;
                rule.with_http(http.clone())
                    .with_transport(transport)
                    .with_inspect(inspect)
                    .map_err(|error| wrong("--inspect", text, &error))
            })
            .collect::<Result<_, Error>>()?;
        Ok(PolicyRequest::Add(scope, rules))
    }

    fn http(&self) -> Result<Option<HttpCondition>, Error> {
        let method = |text: &String| {
            text.parse::<Method>()
                .map_err(|error| wrong("--method", text, &error))
        };
        let methods = self.methods.iter().map(method);
        let methods = methods.collect::<Result<Vec<_>, _>>()?;
        let path = self.path.as_deref().map(|text| {
            text.parse::<PathGlob>()
                .map_err(|error| wrong("--path", text, &error))
        });
        HttpCondition::new(methods, path.transpose()?)
            .map_err(|error| wrong("--method", &self.methods.join(","), &error))
    }
}

fn scope(sandbox: Option<&str>) -> Result<PolicyScope, Error> {
    let name: Option<SandboxName> = value("--sandbox", sandbox)?;
    Ok(name.map_or(PolicyScope::User, PolicyScope::Sandbox))
}

fn resource(flag: &str, text: &str) -> Result<Resource, Error> {
    text.parse().map_err(|error| wrong(flag, text, &error))
}

fn question(text: &str) -> Result<QuestionId, Error> {
    text.parse().map_err(|error| wrong("ID", text, &error))
}

/// Reads a rule about `text`, which was typed as `flag`.
pub(super) fn rule(flag: &str, action: Action, text: &str, origin: Origin) -> Result<Rule, Error> {
    let resource = resource(flag, text)?;
    Rule::new(action, resource, origin).map_err(|error| wrong(flag, text, &error))
}

/// Reads what `check` is asked about; without a port the web's.
fn target(text: &str) -> Result<(Host, u16, Option<String>), Error> {
    let refused = |error: &dyn std::fmt::Display| wrong("TARGET", text, error);
    let (rest, port) = match text.split_once("://") {
        Some(("https", rest)) => (rest, 443),
        Some(("http", rest)) => (rest, 80),
        Some(_) => return Err(refused(&"only http and https are known")),
        None => (text, 443),
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => (&rest[..at], Some(rest[at..].to_owned())),
        None => (rest, None),
    };
    let ascii;
    let authority = match authority.is_ascii() {
        true => authority,
        false => {
            let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
            let host = sbx_spec::ascii_name(host).ok_or_else(|| refused(&"it is no name"))?;
            ascii = match port {
                "" => host.to_string(),
                port => format!("{host}:{port}"),
            };
            &ascii
        }
    };
    if let Ok(HostPort { host, port }) = authority.parse() {
        return Ok((host, port, path));
    }
    let bare = authority
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(authority);
    match bare.parse::<Host>() {
        Ok(host) => Ok((host, port, path)),
        Err(error) => Err(refused(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Typed {
        #[command(flatten)]
        policy: PolicyFlags,
    }

    /// The rules that a command adds, as a file has them.
    fn added(words: &[&str]) -> Option<Vec<String>> {
        let typed = <Typed as clap::Parser>::try_parse_from([&["policy"], words].concat()).ok()?;
        match typed.policy.command().ok()? {
            Command::Policy(PolicyRequest::Add(_, rules)) => {
                Some(rules.iter().map(Rule::written).collect())
            }
            _ => None,
        }
    }

    #[test]
    fn what_is_allowed_can_be_marked_and_nothing_else() {
        let allow = |more: &[&str]| added(&[&["allow", "network"], more].concat());
        let written = |rules: &[&str]| Some(rules.iter().map(ToString::to_string).collect());
        assert_eq!(
            allow(&["a.example:443,b.example", "--inspect"]),
            written(&["a.example:443 inspect", "b.example inspect"])
        );
        assert_eq!(
            allow(&[
                "a.example",
                "--inspect",
                "--method",
                "GET",
                "--protocol",
                "tcp"
            ]),
            written(&["a.example GET inspect"])
        );
        assert_eq!(allow(&["a.example"]), written(&["a.example"]));
        assert_eq!(
            allow(&["a.example", "--inspect", "--protocol", "udp"]),
            None
        );
        assert_eq!(added(&["deny", "network", "a.example", "--inspect"]), None);
        assert_eq!(added(&["ask", "network", "a.example", "--inspect"]), None);
    }

    #[test]
    fn a_moment_is_so_long_ago_or_a_time() {
        let now = OffsetDateTime::from_unix_timestamp(1_000_000).unwrap();
        for (text, seconds) in [
            ("0s", 1_000_000),
            ("10m", 999_400),
            ("2h", 992_800),
            ("1d", 913_600),
            ("1970-01-02T00:00:00Z", 86_400),
            ("1970-01-02T01:00:00+01:00", 86_400),
        ] {
            assert_eq!(moment(text, now), Some(seconds * 1_000), "{text}");
        }
        for text in [
            "",
            "m",
            "10",
            "-1m",
            "1w",
            "99999999999d",
            "20d",
            "yesterday",
        ] {
            assert_eq!(moment(text, now), None, "{text}");
        }
    }

    #[test]
    fn a_target_is_a_host_a_host_and_a_port_or_an_address_of_the_web() {
        for (text, host, port) in [
            ("a.example", "a.example", 443),
            ("a.example:22", "a.example", 22),
            ("https://a.example/x?y", "a.example", 443),
            ("https://bücher.example/", "xn--bcher-kva.example", 443),
            ("bücher.example:80", "xn--bcher-kva.example", 80),
            ("http://a.example", "a.example", 80),
            ("https://a.example:8443/", "a.example", 8443),
            ("192.0.2.1", "192.0.2.1", 443),
            ("2001:db8::1", "2001:db8::1", 443),
            ("[2001:db8::1]", "2001:db8::1", 443),
            ("[2001:db8::1]:22", "2001:db8::1", 22),
        ] {
            let (found, at, _) = target(text).unwrap();
            assert_eq!((found.to_string().as_str(), at), (host, port), "{text}");
        }
        let (.., path) = target("https://a.example/x?y").unwrap();
        assert_eq!(path.as_deref(), Some("/x?y"));
        for text in ["", "a b", "ftp://a.example", "a:0", "*.a", "http://"] {
            assert!(target(text).is_err(), "{text}");
        }
    }
}
