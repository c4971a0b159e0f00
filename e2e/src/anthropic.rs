//! A stand-in for the vendor's API: the Messages API on loopback, with
//! server-sent events, that answers from a script.
//!
//! It proves that the agent's real program works inside, not that the
//! vendor's service would answer so. Where the conversation stands is read
//! from each request, so that repeated and side requests do no harm.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use serde_json::{Value, json};

/// Largest request that is taken.
const MAX_BODY: u64 = 32 << 20;

/// One answer of the model.
#[derive(Clone)]
pub enum Turn {
    /// It asks for a tool: its name and input.
    Use(&'static str, Value),
    /// It says this and is done.
    Say(&'static str),
}

/// A request that arrived.
#[derive(Clone, Debug)]
pub struct Call {
    /// Method and target.
    pub target: String,
    /// The key it came with.
    pub key: Option<String>,
    /// Its body, `null` where it was no JSON.
    pub body: Value,
}

/// The server; it ends with the test.
pub struct StandIn {
    port: u16,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl StandIn {
    /// Serves this conversation on a free port of loopback.
    pub fn serve(script: Vec<Turn>) -> Self {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let port = socket.local_addr().expect("it is bound").port();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (seen, script) = (Arc::clone(&calls), Arc::new(script));
        thread::spawn(move || {
            for client in socket.incoming().flatten() {
                let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                // A client that goes away is not this side's failure.
                thread::spawn(move || converse(client, &seen, &script));
            }
        });
        Self { port, calls }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Everything that was asked so far.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().clone()
    }

    /// The results of tools that the agent reported, in order, as text.
    pub fn tool_results(&self) -> Vec<String> {
        let calls = self.calls.lock();
        let longest = calls
            .iter()
            .map(|call| blocks(&call.body, "tool_result"))
            .max_by_key(Vec::len);
        longest
            .unwrap_or_default()
            .iter()
            .map(|block| block["content"].to_string())
            .collect()
    }
}

fn converse(client: TcpStream, seen: &Mutex<Vec<Call>>, script: &[Turn]) -> io::Result<()> {
    let mut answer = client.try_clone()?;
    let mut reader = BufReader::new(client);
    while let Some(call) = request(&mut reader)? {
        let path = call
            .target
            .split(['?', ' '])
            .nth(1)
            .unwrap_or_default()
            .to_owned();
        let body = call.body.clone();
        seen.lock().push(call);
        match path.as_str() {
            "/v1/messages" if body["stream"] == json!(true) => {
                stream(&mut answer, &events(next(script, &body)))?;
            }
            "/v1/messages" => whole(&mut answer, &message(next(script, &body)))?,
            "/v1/messages/count_tokens" => whole(&mut answer, &json!({"input_tokens": 10}))?,
            _ => whole(&mut answer, &json!({}))?,
        }
    }
    Ok(())
}

/// One request, `None` at the end of the connection.
fn request(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Call>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let target = line
        .trim_end()
        .rsplit_once(' ')
        .map_or("", |(target, _)| target)
        .to_owned();
    let (mut length, mut chunked, mut key) = (0, false, None);
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        match (name.to_ascii_lowercase().as_str(), value.trim()) {
            ("content-length", value) => length = value.parse().unwrap_or(0),
            ("transfer-encoding", value) => chunked = value.eq_ignore_ascii_case("chunked"),
            ("x-api-key", value) => key = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            reader.take(size.min(MAX_BODY)).read_to_end(&mut body)?;
            line.clear();
            reader.read_line(&mut line)?;
            if size == 0 {
                break;
            }
        }
    } else {
        reader
            .take(u64::min(length, MAX_BODY))
            .read_to_end(&mut body)?;
    }
    Ok(Some(Call {
        target,
        key,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    }))
}

/// Where the conversation of this request stands. Side requests (titles,
/// summaries) bring no tools and get a word.
fn next<'s>(script: &'s [Turn], body: &Value) -> &'s Turn {
    let offers_tools = body["tools"]
        .as_array()
        .is_some_and(|tools| !tools.is_empty());
    if !offers_tools {
        return &Turn::Say("ok");
    }
    script
        .get(blocks(body, "tool_result").len())
        .unwrap_or(&Turn::Say("done"))
}

/// All content blocks of one type in the messages of a request.
fn blocks(body: &Value, kind: &str) -> Vec<Value> {
    let messages = body["messages"].as_array().into_iter().flatten();
    messages
        .filter_map(|message| message["content"].as_array())
        .flatten()
        .filter(|block| block["type"] == kind)
        .cloned()
        .collect()
}

fn head() -> Value {
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-stand-in",
        "content": [], "stop_reason": null, "stop_sequence": null,
        "usage": {"input_tokens": 10, "output_tokens": 1},
    })
}

fn message(turn: &Turn) -> Value {
    let mut message = head();
    let (block, reason) = match turn {
        Turn::Say(text) => (json!({"type": "text", "text": text}), "end_turn"),
        Turn::Use(tool, input) => (
            json!({"type": "tool_use", "id": "toolu_1", "name": tool, "input": input}),
            "tool_use",
        ),
    };
    message["content"] = json!([block]);
    message["stop_reason"] = json!(reason);
    message
}

fn events(turn: &Turn) -> Vec<Value> {
    let (block, deltas, reason) = match turn {
        Turn::Say(text) => {
            let (first, second) = text.split_at(text.len() / 2);
            let delta = |text| json!({"type": "text_delta", "text": text});
            (
                json!({"type": "text", "text": ""}),
                vec![delta(first), delta(second)],
                "end_turn",
            )
        }
        Turn::Use(tool, input) => {
            // Numbered by its contents: every use in a conversation differs.
            let id = format!("toolu_{:08x}", crc(&format!("{tool}{input}")));
            let input = json!({"type": "input_json_delta", "partial_json": input.to_string()});
            let block = json!({"type": "tool_use", "id": id, "name": tool, "input": {}});
            (block, vec![input], "tool_use")
        }
    };
    let mut events = vec![
        json!({"type": "message_start", "message": head()}),
        json!({"type": "content_block_start", "index": 0, "content_block": block}),
    ];
    for delta in deltas {
        events.push(json!({"type": "content_block_delta", "index": 0, "delta": delta}));
    }
    events.push(json!({"type": "content_block_stop", "index": 0}));
    events.push(json!({
        "type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": null},
        "usage": {"output_tokens": 10},
    }));
    events.push(json!({"type": "message_stop"}));
    events
}

fn crc(text: &str) -> u32 {
    text.bytes().fold(17, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    })
}

fn whole(answer: &mut TcpStream, body: &Value) -> io::Result<()> {
    let body = body.to_string();
    let length = body.len();
    write!(
        answer,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

fn stream(answer: &mut TcpStream, events: &[Value]) -> io::Result<()> {
    answer.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    )?;
    for event in events {
        let kind = event["type"].as_str().unwrap_or_default();
        let text = format!("event: {kind}\ndata: {event}\n\n");
        write!(answer, "{:x}\r\n{text}\r\n", text.len())?;
        answer.flush()?;
    }
    answer.write_all(b"0\r\n\r\n")
}
