//! Hostile bytes in place of requests: every answer is an error or a reply, never a panic.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::{FsCacheReqHandler, FuseBuf, FuseDevWriter, Reader};
use proptest::prelude::*;

use crate::world::{World, put};

const REPLY_ROOM: usize = 64 * 1024;

fn ask(server: &Server<Arc<sbx_share::fs::ShareFs>>, mut request: Vec<u8>) {
    let sink = File::options().write(true).open("/dev/null").unwrap();
    let mut room = vec![0; REPLY_ROOM];
    let reader = Reader::<()>::from_fuse_buffer(FuseBuf::new(&mut request)).unwrap();
    let writer = FuseDevWriter::<()>::new(sink.as_raw_fd(), &mut room).unwrap();
    // Either is fine; it must only come back.
    let _ = server.handle_message(
        reader,
        writer.into(),
        None::<&mut dyn FsCacheReqHandler>,
        None,
    );
}

fn request(opcode: u32, node: u64, declared: Option<u32>, body: &[u8]) -> Vec<u8> {
    let length = declared.unwrap_or(40 + body.len() as u32);
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&opcode.to_le_bytes());
    bytes.extend_from_slice(&7u64.to_le_bytes());
    bytes.extend_from_slice(&node.to_le_bytes());
    bytes.extend_from_slice(&[0; 16]);
    bytes.extend_from_slice(body);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_sequence_of_bytes_stops_the_server(
        requests in proptest::collection::vec(
            (
                1u32..60,
                prop_oneof![Just(1u64), 0u64..8, any::<u64>()],
                proptest::option::weighted(0.2, any::<u32>()),
                proptest::collection::vec(prop_oneof![Just(0u8), 0u8..8, any::<u8>()], 0..200),
            ),
            1..60,
        ),
    ) {
        let w = World::new(|root| {
            put(&root.join("f"), "x");
            put(&root.join(".git/config"), "x");
        });
        let server = Server::new(Arc::new(w.fs));
        ask(&server, vec![0; 3]);
        for (opcode, node, declared, body) in requests {
            ask(&server, request(opcode, node, declared, &body));
        }
    }
}
