//! One request for parts of chunks at one node, and at other nodes as well when it is late (protocol D5).
//!
//! Why a late answer of the replica that lost never reaches the caller's bytes: each request owns buffers of its own,
//! and a `RegisteredBuf` has one owner. When a request is given up, its future is dropped, and with it its buffers or
//! (tcp, in the middle of a push) the transport's reader keeps the one it is filling until it has done so; that is the
//! contract of `net::transport`. None of them comes back to us: a part whose first request lost goes on with the
//! winner's buffer, and where the caller had given one buffer for several parts, the bytes are copied into a new one.

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use common::{buf::RegisteredBuf, env::Instant};
use futures::future::{Either, join_all, select};
use net::Bulk;
use types::{
    checksum::Checksum,
    id::NodeId,
    routing::RoutingInfo,
    rpc::{
        BulkIndex,
        storage::{ReadChunks, ReadDone, ReadItem, ReadMode, ReadReply, ReadRequest},
    },
    status::{Status, StatusCode},
};

use crate::{
    metrics,
    retry::is_silence,
    storage::{
        Shared,
        read::{Part, has_untried},
        target_choice::ReadTicket,
    },
    stripe,
};

/// A part and the replica that is asked for it.
pub(super) struct Asked<'a> {
    item: ReadItem,
    ticket: ReadTicket<'a>,
}

impl Asked<'_> {
    pub(super) fn node(&self) -> NodeId {
        self.ticket.node
    }
}

/// Parts that one node is asked for.
pub(super) struct ReadBatch<'a> {
    map: Arc<RoutingInfo>,
    parts: Vec<Part<'a>>,
    asked: Vec<Asked<'a>>,
    bufs: Vec<RegisteredBuf>,
}

/// What an attempt at a part came to.
pub(super) struct Answered<'a> {
    pub(super) part: Part<'a>,
    /// Filled when the result is Ok.
    pub(super) buf: RegisteredBuf,
    pub(super) result: Result<(), Status>,
    /// The map of the attempt.
    pub(super) map: Arc<RoutingInfo>,
}

impl<'a> ReadBatch<'a> {
    pub(super) fn new(map: Arc<RoutingInfo>) -> Self {
        Self {
            map,
            parts: Vec::new(),
            asked: Vec::new(),
            bufs: Vec::new(),
        }
    }

    /// All parts of a batch are for the same node.
    pub(super) fn add(&mut self, part: Part<'a>, asked: Asked<'a>, buf: RegisteredBuf) {
        self.parts.push(part);
        self.asked.push(asked);
        self.bufs.push(buf);
    }
}

/// A replica's answer: how many bytes at the front of the buffer are content.
struct Answer {
    result: Result<usize, Status>,
    /// `None` when the transport still holds it.
    buf: Option<RegisteredBuf>,
}

impl Answer {
    /// Whether another replica would say the same. That there is no such chunk is an answer.
    fn is_good(&self) -> bool {
        match &self.result {
            Ok(_) => true,
            Err(status) => status.code == StatusCode::ChunkNotFound,
        }
    }
}

/// What another node is asked for a late request: parts by their place in it.
struct Other<'a> {
    places: Vec<usize>,
    asked: Vec<Asked<'a>>,
}

impl Shared {
    /// Chooses a replica for a part; it counts as tried from now on.
    pub(super) fn choose_replica<'a>(
        &'a self,
        map: &RoutingInfo,
        part: &mut Part<'_>,
    ) -> Result<Asked<'a>, Status> {
        let range = part.chunk;
        let chain = stripe::chain_of(map, part.layout, range.chunk.index)?;
        let ticket = self
            .choice
            .choose(map, chain, &part.tried, self.env.now())
            .ok_or_else(|| stripe::not_serving(chain))?;
        part.tried.push(ticket.target);
        stripe::address_of(map, ticket.target)?;
        let item = ReadItem {
            chain: chain.id,
            chain_version: chain.version,
            target: ticket.target,
            chunk: range.chunk,
            offset: range.offset,
            length: range.length,
            destination: BulkIndex(0),
            destination_offset: 0,
        };
        Ok(Asked { item, ticket })
    }

    /// Asks for a batch once, one answer per part.
    pub(super) async fn read_batch<'a>(
        &'a self,
        batch: ReadBatch<'a>,
        deadline: Instant,
    ) -> Vec<Answered<'a>> {
        let ReadBatch {
            map,
            mut parts,
            asked,
            bufs,
        } = batch;
        let bytes = bufs.iter().map(|buf| buf.len()).sum();
        let (sent, until) = (self.env.now(), self.attempt_end(deadline));
        let delay = self.hedging.begin(parts.len(), bytes);
        let mut first = pin!(async {
            let answers = self.request(&map, &asked, bufs, until).await;
            if answers.iter().any(Answer::is_good) {
                self.hedging.took(bytes, self.since(sent));
            }
            answers
        });
        let on_time = match delay {
            Some(delay) => self.env.timeout(delay, &mut first).await.ok(),
            None => Some(first.as_mut().await),
        };
        let answers = match on_time {
            Some(answers) => answers,
            None => {
                let newest = self.routing.current();
                let others = self.choose_others(&newest, &mut parts);
                if others.is_empty() {
                    first.await
                } else {
                    let until = self.attempt_end(deadline);
                    let second = pin!(self.ask_others(&newest, &others, parts.len(), until));
                    let (answers, left) = race(first, second).await;
                    if left {
                        let took = self.since(sent);
                        self.hedging.took(bytes, took);
                        // It would have taken longer; how much longer, nobody knows.
                        let tickets = asked.iter().map(|asked| &asked.ticket);
                        self.choice.took(tickets, 2 * took, self.env.now());
                    }
                    answers
                }
            }
        };
        let answered = parts.into_iter().zip(answers);
        answered
            .map(|(part, answer)| self.finish(part, answer, map.clone()))
            .collect()
    }

    fn attempt_end(&self, deadline: Instant) -> Instant {
        deadline.min(self.env.now() + self.options.read_attempt)
    }

    fn since(&self, start: Instant) -> Duration {
        self.env.now().saturating_duration_since(start)
    }

    /// Fills up with zeros what a chunk does not hold.
    fn finish<'a>(&self, part: Part<'a>, answer: Answer, map: Arc<RoutingInfo>) -> Answered<'a> {
        let length = part.chunk.length as usize;
        let lost = || self.endpoint.buffers().allocate(length);
        let mut buf = answer.buf.unwrap_or_else(lost);
        let result = match answer.result {
            Ok(content) => {
                buf[content..].fill(0);
                Ok(())
            }
            Err(status) if status.code == StatusCode::ChunkNotFound => {
                buf.fill(0);
                Ok(())
            }
            Err(status) => Err(status),
        };
        Answered {
            part,
            buf,
            result,
            map,
        }
    }

    /// Sends one request to the node that all of `asked` are at, one answer for each.
    async fn request(
        &self,
        map: &RoutingInfo,
        asked: &[Asked<'_>],
        bufs: Vec<RegisteredBuf>,
        until: Instant,
    ) -> Vec<Answer> {
        let Some(any) = asked.first() else {
            return Vec::new();
        };
        let items = (0_u16..).zip(asked).map(|(index, asked)| ReadItem {
            destination: BulkIndex(index),
            ..asked.item.clone()
        });
        let request = ReadRequest {
            reads: items.collect(),
            mode: ReadMode::Linearizable,
        };
        let bulk = Bulk {
            sources: Vec::new(),
            destinations: bufs,
        };
        let (sent, caller) = (self.env.now(), self.caller());
        let reply = match stripe::address_of(map, any.ticket.target) {
            Ok(address) => {
                self.endpoint
                    .call::<ReadChunks>(address, &caller, &request, bulk, until)
                    .await
            }
            Err(status) => net::Reply {
                result: Err(status),
                destinations: bulk.destinations,
            },
        };
        let answers = answers(reply, asked.len());
        let (took, now) = (self.since(sent), self.env.now());
        match &answers {
            Ok(answers) if answers.iter().any(Answer::is_good) => {
                let tickets = asked.iter().map(|asked| &asked.ticket);
                self.choice.took(tickets, took, now);
            }
            Err((status, _)) if is_silence(status.code) => self.choice.avoid(any.node(), now),
            Ok(_) | Err(_) => {}
        }
        answers.unwrap_or_else(|(status, bufs)| {
            let failed = bufs.into_iter().map(|buf| Answer {
                result: Err(status.clone()),
                buf,
            });
            failed.collect()
        })
    }

    /// Other replicas for a request that is late: empty when there are none, or the budget is spent.
    fn choose_others<'a>(&'a self, map: &RoutingInfo, parts: &mut [Part<'_>]) -> Vec<Other<'a>> {
        let open = (0..parts.len()).filter(|place| has_untried(map, &parts[*place]));
        let open: Vec<usize> = open.collect();
        if open.is_empty() || !self.hedging.spend(open.len()) {
            return Vec::new();
        }
        let mut others: BTreeMap<NodeId, Other<'_>> = BTreeMap::new();
        for place in open {
            // One that has no address is not asked; the first request goes on in any case.
            if let Ok(asked) = self.choose_replica(map, &mut parts[place]) {
                let other = others.entry(asked.node()).or_insert_with(|| Other {
                    places: Vec::new(),
                    asked: Vec::new(),
                });
                other.places.push(place);
                other.asked.push(asked);
                metrics::hedged_read();
            }
        }
        others.into_values().collect()
    }

    /// Asks others for parts of a request of `count`; an answer for each part that was asked for.
    async fn ask_others(
        &self,
        map: &RoutingInfo,
        others: &[Other<'_>],
        count: usize,
        until: Instant,
    ) -> Vec<Option<Answer>> {
        let requests = others.iter().map(|other| {
            let lengths = other.asked.iter().map(|asked| asked.item.length as usize);
            let bufs = lengths.map(|length| self.endpoint.buffers().allocate(length));
            self.request(map, &other.asked, bufs.collect(), until)
        });
        let mut all: Vec<Option<Answer>> = (0..count).map(|_| None).collect();
        for (other, answers) in others.iter().zip(join_all(requests).await) {
            for (place, answer) in other.places.iter().zip(answers) {
                all[*place] = Some(answer);
            }
        }
        all
    }
}

/// The first good answer for each part; whichever is not needed any more for any part is not waited for. Also says
/// whether that was the first request.
async fn race(
    first: impl Future<Output = Vec<Answer>> + Unpin,
    second: impl Future<Output = Vec<Option<Answer>>> + Unpin,
) -> (Vec<Answer>, bool) {
    match select(first, second).await {
        Either::Left((answers, second)) => {
            if answers.iter().all(Answer::is_good) {
                return (answers, false);
            }
            (merge(answers, second.await), false)
        }
        Either::Right((others, first)) => {
            let is_good = |other: &Option<Answer>| other.as_ref().is_some_and(Answer::is_good);
            if others.iter().all(is_good) {
                metrics::hedges_won(others.len());
                return (others.into_iter().flatten().collect(), true);
            }
            (merge(first.await, others), false)
        }
    }
}

/// A good answer for each part, if one of the two is; else that of the first replica.
fn merge(first: Vec<Answer>, others: Vec<Option<Answer>>) -> Vec<Answer> {
    let pairs = first.into_iter().zip(others);
    let better = pairs.map(|(first, other)| match other {
        Some(other) if other.is_good() && !first.is_good() => {
            metrics::hedges_won(1);
            other
        }
        Some(_) | None => first,
    });
    better.collect()
}

/// One answer for each of `count` parts, or why there is none, with the buffers that came back.
fn answers(
    reply: net::Reply<ReadReply>,
    count: usize,
) -> Result<Vec<Answer>, (Status, Vec<Option<RegisteredBuf>>)> {
    let mut bufs: Vec<Option<RegisteredBuf>> = reply.destinations.into_iter().map(Some).collect();
    bufs.resize_with(count, || None);
    match reply.result {
        Ok(reply) if reply.results.len() == count => {
            let answers = reply.results.into_iter().zip(bufs);
            Ok(answers.map(|(result, buf)| answer(result, buf)).collect())
        }
        Ok(reply) => {
            let what = format!("{} results for {count} ranges", reply.results.len());
            Err((malformed(&what), bufs))
        }
        Err(status) => Err((status, bufs)),
    }
}

/// Holds the bytes against the checksum that came with them.
fn answer(result: Result<ReadDone, Status>, buf: Option<RegisteredBuf>) -> Answer {
    let result = result.and_then(|done| {
        let length = done.length as usize;
        let Some(content) = buf.as_ref().and_then(|buf| buf.get(..length)) else {
            return Err(malformed("more bytes than asked for"));
        };
        if Checksum::of(content) != done.checksum {
            metrics::corrupt_read();
            let message = "the bytes read do not match their checksum";
            return Err(Status::new(StatusCode::ChecksumMismatch, message));
        }
        Ok(length)
    });
    Answer { result, buf }
}

fn malformed(what: &str) -> Status {
    Status::new(
        StatusCode::Malformed,
        format!("a read was answered with {what}"),
    )
}
