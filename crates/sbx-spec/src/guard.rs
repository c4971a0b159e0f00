//! The guards that tests take out, one at a time, to see that an attack gets
//! through then and only then.
//!
//! In the product no guard can be out: without the feature `unguarded`, which
//! only `cargo xtask guards` switches on and no release build compiles with,
//! [`out`] is the constant `false` and leaves nothing behind. With it, the
//! environment of the process names the one that is out.

#[cfg(all(feature = "unguarded", not(debug_assertions)))]
compile_error!("`unguarded` is a feature of tests: guards cannot be taken out of a release build");

/// Declares the guards, and lists them for [`out`].
macro_rules! guards {
    ($($(#[$doc:meta])+ $guard:ident,)+) => {
        /// One guard each.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Guard { $($(#[$doc])+ $guard,)+ }

        #[cfg(feature = "unguarded")]
        const ALL: &[Guard] = &[$(Guard::$guard,)+];
    };
}

guards! {
    /// Nothing but letters, digits, `-` and `_` stands in a name.
    NameBytes,
    /// What C libraries read as an IPv4 address is no name.
    NumericNames,
    /// What no rule is about is denied.
    Absence,
    /// A denial beats every leave.
    DenialFirst,
    /// A rule that asks beats one that allows.
    AskFirst,
    /// A rule about names opens no address.
    NoAddressByName,
    /// A rule about a port opens no other.
    OnePort,
    /// A rule that does not say so is not about datagrams.
    NoDatagrams,
    /// Ranges near the host are denied.
    Ranges,
    /// An IPv6 address that carries a denied IPv4 address is denied.
    CarriedForms,
    /// Addresses of the host's own interfaces are denied.
    HostInterfaces,
    /// Only a rule within a denied range opens it.
    RuleWithinRange,
    /// Ports 53 and 853 are denied everywhere.
    NameServerPorts,
    /// UDP 443 is denied everywhere.
    Quic,
    /// A path that has another spelling is none.
    CanonicalPath,
    /// A method with small letters is none.
    MethodCase,
    /// A published port is one of loopback where no address is named.
    PublishedLoopback,
    /// Whatever a name resolved to is judged again.
    JudgedAgain,
    /// Nothing is resolved before its name is allowed.
    AllowedFirst,
    /// A name is resolved anew after a while.
    ResolvedAnew,
    /// An address stands for one name.
    OneName,
    /// What a proxy of ours is asked for is judged by where it goes.
    AskedOfProxy,
    /// The gateway is not the host.
    GatewayIsNotHost,
    /// Where TLS is ended, the server behind is one that the host knows.
    KnownServer,
    /// A TLS hello names the connection's server.
    ServerName,
    /// A Host field or `:authority` names the connection's server.
    Authority,
    /// A target of a request is a path, without a server in it.
    TargetIsPath,
    /// Where rules are about requests, each is judged.
    EachRequest,
    /// Where rules are about requests, what is none is denied.
    OnlyRequests,
    /// A message has one length.
    OneLength,
    /// Lines end in one way.
    PlainLines,
    /// Fields that Connection names are known ones.
    KnownHopFields,
    /// Records are asked of other servers for allowed names only.
    AllowedRecords,
    /// So many questions a second.
    QuestionRate,
    /// So many names.
    NameCount,
    /// Echoes are answered for allowed hosts only.
    EchoOfAllowed,
    /// Only the guest's own packets are heard.
    OwnSource,
    /// A connection that new rules deny is cut.
    CutByRules,
    /// A request under way that new rules deny is cut.
    RequestCutByRules,
    /// An order that is not understood ends the endpoint.
    UnderstoodOrders,
    /// An answer is about what was asked.
    AnswerOfQuestion,
    /// Records beyond a rate are summed up.
    SummedRecords,
}

/// Whether a guard is out.
#[cfg(not(feature = "unguarded"))]
#[must_use]
pub const fn out(_guard: Guard) -> bool {
    false
}

/// Whether a guard is out.
#[cfg(feature = "unguarded")]
#[must_use]
pub fn out(guard: Guard) -> bool {
    use std::sync::LazyLock;
    // Where one guard stands behind another, both are out.
    static OUT: LazyLock<Vec<Guard>> = LazyLock::new(|| {
        let named = named().unwrap_or_default();
        let is_named = |guard: &Guard| named.split(" + ").any(|one| one == format!("{guard:?}"));
        ALL.iter().copied().filter(is_named).collect()
    });
    OUT.contains(&guard)
}

/// The variable of the environment that names the guard that is out.
#[cfg(feature = "unguarded")]
pub const VARIABLE: &str = "SBX_TEST_GUARD_OUT";

/// What it says.
#[cfg(feature = "unguarded")]
#[must_use]
pub fn named() -> Option<String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's process and those that it starts have one guard out from their start"
    )]
    std::env::var(VARIABLE).ok()
}
