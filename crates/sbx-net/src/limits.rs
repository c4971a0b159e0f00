//! Every bound of this crate, and what happens there.
//!
//! The memory of one endpoint is the sum of these; [`MEMORY`] is the wall
//! behind them.

use std::time::Duration;

/// Largest IP packet on the link, in bytes (the MTU the guest is told).
pub const MTU: usize = 65_520;

/// What a segment of TCP carries at most with either family, in bytes.
pub const SEGMENT: usize = MTU - 60;

/// Largest Ethernet frame, in bytes. A longer one is dropped.
pub const FRAME: usize = MTU + 14;

/// Frames read from the link before connections are served again.
pub const LINK_INPUT: usize = 64;

/// Frames a second that come to nothing: refused,
/// dropped, or answered without a connection. With more of them the link is
/// not read for a moment, so that who floods waits instead of us both working.
pub const FRUITLESS_RATE: u32 = 20_000;

/// So many of them at once: what others wait for before it is over.
pub const FRUITLESS_AT_ONCE: u32 = 1_000;

/// Bytes that a guest has to take at a time while more wait for it: the least
/// segment that every host takes (RFC 9293, 3.7.1). Taking less comes to
/// nothing in that sense.
pub const MORSEL: usize = 536;

/// As many of them a connection counts for that the guest ends before anybody
/// has said anything on it: it costs its server and its guest more than a
/// refusal does. More than come back in that moment, so that each waits for one.
pub const FRUITLESS_CONNECTION: u32 = 40;

/// That moment.
pub const FRUITLESS_PAUSE: Duration = Duration::from_millis(1);

/// Bytes ready for the link and not taken by the VMM yet. Where it is full,
/// answers to the guest are dropped as a network would.
pub const LINK_OUTPUT: usize = 2 * 1024 * 1024;

/// Above this many waiting bytes, connections wait before they add data; the
/// room above is for acknowledgements, names and refusals. No more than a
/// processor keeps close to itself until they are sent.
pub const LINK_OUTPUT_SOFT: usize = 128 * 1024;

/// Memory that the kernel may take at least for frames on their way to the
/// VMM, in bytes: what it gives by itself holds three of the largest, and it
/// tells us that there is room when they are nearly gone.
pub const LINK_ON_ITS_WAY: usize = 768 * 1024;

/// TCP connections of the guest at once. The next one is reset.
pub const FLOWS: usize = 5_120;

/// Size of the list of connections that stand, in bytes: 22 for each.
pub const LEDGER: usize = FLOWS * 22;

/// Connections being resolved or dialled at once. The next SYN is dropped,
/// and tried again by the guest's kernel.
pub const DIALS: usize = 1_024;

/// Connections whose three-way handshake the guest has not finished. The
/// next one is dropped like a SYN beyond [`DIALS`].
pub const HALF_OPEN: usize = 1_024;

/// TCP connections to the name server at once. The next one is reset.
pub const DNS_STREAMS: usize = 64;

/// Connections to the proxies of the gateway that have not said yet what they
/// want. The next one is reset.
pub const ADAPTERS: usize = 256;

/// What a program may say to a proxy before it is clear what it wants, in
/// bytes. More is refused.
pub const ADAPTER_REQUEST: usize = 16 * 1024;

/// How long it may take for it. Then it is reset.
pub const ADAPTER_TIME: Duration = Duration::from_secs(10);

/// Denied connections that are told why at once. The next one is reset.
pub const REFUSALS: usize = 256;

/// How long a denied request and its answer may take. Then it is reset.
pub const REFUSAL_TIME: Duration = Duration::from_secs(10);

/// Buffer of a denied connection in each direction, in bytes.
pub const REFUSAL: usize = 16 * 1024;

/// Bytes of a denied request that are read after its answer, so that the
/// guest hears it. Then it is reset.
pub const REFUSED_BODY: usize = 1024 * 1024;

/// What a guest says first on a connection to a name, until it is clear what
/// it is, in bytes. More is refused.
pub const OPENING: usize = 32 * 1024;

/// How long a guest that may only make requests may take for its first words.
/// Then it is reset.
pub const OPENING_TIME: Duration = Duration::from_secs(30);

/// Connections whose requests are looked at, at once. The next one is reset.
pub const INSPECTED: usize = 512;

/// Certificates of servers that are remembered. Then they are made anew.
pub const CERTIFICATES: usize = 1_024;

/// Sessions with servers that are remembered, eight to a server. Then the
/// oldest server is forgotten.
pub const SESSIONS: usize = 256;

/// How long a server need not show its certificate again. Then all sessions
/// are forgotten.
pub const SESSIONS_FOR: Duration = Duration::from_secs(600);

/// Longest head of an HTTP message, and its trailers, in bytes. A longer one
/// is refused.
pub const HTTP_HEAD: usize = 64 * 1024;

/// Fields of an HTTP message. One with more is refused.
pub const HTTP_FIELDS: usize = 128;

/// How long a head of HTTP may take from its first byte. Then it is refused.
pub const HTTP_HEAD_TIME: Duration = Duration::from_secs(30);

/// Bytes of HTTP/1 that are read at once in each direction.
pub const HTTP_READ: usize = 32 * 1024;

/// Longest line before a chunk, in bytes. A longer one is refused.
pub const HTTP_CHUNK_LINE: usize = 256;

/// Interim answers (1xx) to one request. With more, the connection is reset.
pub const HTTP_INTERIM: usize = 16;

/// Requests at once on one connection of HTTP/2. The next one waits.
pub const HTTP2_STREAMS: u32 = 128;

/// What a server may send ahead on one connection of HTTP/2, in bytes.
pub const HTTP2_WINDOW: u32 = 1024 * 1024;

/// What a guest may send ahead on one connection of HTTP/2, in bytes.
pub const HTTP2_GUEST_WINDOW: u32 = 256 * 1024;

/// What waits to be sent on one request of HTTP/2, in bytes.
pub const HTTP2_SEND: usize = 64 * 1024;

/// Verdicts on requests that the loop has not recorded yet. More are counted.
pub const REPORTS: usize = 4_096;

/// Buffer of a connection in each direction, by how many connections hold
/// that size already: bytes, and how many. Together 704 MiB. They hold whole
/// segments: the rest of one would go in a packet of its own whenever a buffer
/// is full, and below one, whoever comes when others stand idle gets half of
/// what it could have.
pub const BUFFERS: [(usize, usize); 2] = [(8 * SEGMENT, 64), (SMALL_BUFFER, FLOWS)];

/// The smallest of these. Blocks of memory of this size and more cost only
/// what is touched of them.
pub const SMALL_BUFFER: usize = SEGMENT;

/// Pairs of the large ones that are kept for the next connections when theirs
/// have ended. More are given back.
pub const SPARE_BUFFERS: usize = 8;

/// Connections of the host into published ports at once. The next one is
/// reset.
pub const PUBLISHED: usize = 1_024;

/// Pairs of ends that exchange datagrams at once. The next datagram is
/// refused.
pub const EXCHANGES: usize = 256;

/// How long nothing may be said between two such ends. Then they are
/// forgotten.
pub const EXCHANGE_TIME: Duration = Duration::from_secs(30);

/// Longest datagram from outside, in bytes. The rest of a longer one is lost.
pub const DATAGRAM: usize = 16 * 1024;

/// Questions for the user at once, and answers that are remembered. The next
/// connection or request is denied.
pub const QUESTIONS: usize = 64;

/// Connections and requests that wait for the user. The next one is denied.
pub const HELD: usize = 256;

/// How long a question waits for its answer, and how long that counts for
/// whoever asks the same. Without an answer they are denied.
pub const ASK_TIME: Duration = Duration::from_secs(30);

/// Distinct names that have an address in one sandbox. The next one is
/// answered REFUSED; names known by then keep working.
pub const NAMES: usize = 16_384;

/// Longest name with its address as it is handed on, in bytes.
pub const NAME: usize = 320;

/// DNS queries a second, and as many at once. More are answered REFUSED.
pub const DNS_RATE: u32 = 2_000;

/// Longest DNS message over TCP that is read, in bytes. A longer one closes
/// its connection.
pub const DNS_MESSAGE: usize = 4_096;

/// Longest answer over TCP, and longest answer of another name server that is
/// read, in bytes. What does not fit is a failure.
pub const DNS_ANSWER: usize = 16 * 1024;

/// Threads that wait for other name servers.
pub const RECORD_LOOKUPS: usize = 4;

/// Questions a second that are asked of other name servers, and as many at
/// once. More are answered REFUSED: whoever serves an allowed name hears them.
pub const RECORD_QUESTIONS: u32 = 20;

/// Questions waiting for such a thread. The next one is answered REFUSED.
pub const RECORD_QUEUE: usize = 64;

/// UDP answers are never longer than this, in bytes, whatever the client
/// offers.
pub const DNS_UDP_ANSWER: usize = 1_232;

/// Threads that wait in the host's resolver.
pub const RESOLVERS: usize = 8;

/// Names waiting for such a thread. The next connection is reset.
pub const RESOLVER_QUEUE: usize = 512;

/// Addresses of one name that are judged and tried, in the resolver's order.
pub const CANDIDATES: usize = 8;

/// How long a resolved name is used again.
pub const RESOLVED_FOR: Duration = Duration::from_secs(5);

/// Resolved names remembered at once.
pub const RESOLVED_NAMES: usize = 1_024;

/// How long a connection waits for its name. Then it is reset.
pub const RESOLVE_TIME: Duration = Duration::from_secs(15);

/// How long all its addresses together may take to answer. Then it is reset.
pub const DIAL_TIME: Duration = Duration::from_secs(30);

/// How long one address is alone on trial before the next one joins (RFC
/// 8305 calls it the connection attempt delay).
pub const DIAL_STAGGER: Duration = Duration::from_millis(250);

/// How long the guest may take to finish a handshake. Then it is reset.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// How long a TCP connection to the name server may be silent.
pub const DNS_STREAM_TIME: Duration = Duration::from_secs(10);

/// How often the guest is asked about a connection of a dead endpoint: amid a
/// flood of its own most of what it answers is lost.
pub const ORPHAN_QUESTIONS: u32 = 40;

/// The pause between two such questions: longer than guests keep silent
/// after one.
pub const ORPHAN_PAUSE: Duration = Duration::from_millis(1_200);

/// Silence after which a connection is probed, on both sides.
pub const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// How old the list of the host's own addresses may be when a flow is judged.
pub const HOST_ADDRESSES_FOR: Duration = Duration::from_secs(2);

/// Records a second, and as many at once, of each kind: denials, allowed
/// requests, allowed flows with their ends. More are counted and reported as
/// one line a second.
pub const RECORD_RATE: u32 = 500;

/// Allowed flows on record that have not ended: connections, and questions to
/// other name servers. More are counted.
pub const RECORDED: usize = FLOWS + RECORD_LOOKUPS + RECORD_QUEUE;

/// Bytes of records that the supervisor has not taken yet. More are counted
/// like those above the rate; denials and requests leave half of it to others.
pub const CONTROL_OUTPUT: usize = 256 * 1024;

/// Longest line on the control link, in bytes: two policies and the presets
/// fit. A longer one ends the process.
pub const CONTROL_LINE: usize = 2 * 1024 * 1024;

/// Data memory of the whole process, in bytes (RLIMIT_DATA). An allocation
/// beyond it ends the process.
pub const MEMORY: u64 = 1_536 * 1024 * 1024;

/// Open descriptors of the process (RLIMIT_NOFILE), sockets of connections
/// on trial included. Without a free one, connections are reset.
pub const DESCRIPTORS: u64 = 16_384;
