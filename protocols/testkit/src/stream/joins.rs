//! What passes between joined channels, and security contexts.

use super::{Answer, Stage, StreamNode};
use crate::gss::Begun;
use crate::log::Seen;
use bytes::Bytes;
use sluice_spi::{ChannelRef, ContextRequest, DropReason, Input, JoinEnd, LocalRef, StreamCodec};

impl StreamNode {
    /// Whether a joined channel has a codec.
    pub fn has_codec(&self, channel: ChannelRef) -> bool {
        self.codecs.contains_key(&channel)
    }

    /// The codec of a joined channel.
    pub fn codec(&mut self, channel: ChannelRef) -> &mut dyn StreamCodec {
        let codec = self.codecs.get_mut(&channel);
        codec.expect("a channel that was joined with a codec").as_mut()
    }

    pub(super) fn join(
        &mut self,
        session: LocalRef,
        first: ChannelRef,
        second: ChannelRef,
        early: &Bytes,
        codec: Option<Box<dyn StreamCodec>>,
    ) {
        assert_ne!(first, second);
        for channel in [first, second] {
            let entry = self
                .channels
                .get_mut(&channel)
                .expect("it joins channels that it has");
            assert_eq!(entry.stage, Stage::Open, "it joins {channel:?}");
            entry.stage = Stage::Joined;
        }
        assert!(self.joins.insert(session, (first, second)).is_none());
        self.codecs.extend(codec.map(|codec| (first, codec)));
        self.early = Some((first, early.clone()));
    }

    /// Passes what came in on joined channels. True: something came of it that the machine was told.
    pub(super) fn pass_joined(&mut self) -> bool {
        let early = self.early.take();
        let mut broken = None;
        for (&name, channel) in &mut self.channels {
            if channel.stage != Stage::Joined {
                continue;
            }
            let early = early.as_ref().filter(|(first, _)| *first == name);
            let bytes: Vec<u8> = early
                .map_or(&[][..], |(_, early)| early)
                .iter()
                .copied()
                .chain(channel.unread.drain(..))
                .collect();
            let Some(codec) = self.codecs.get_mut(&name) else {
                channel.passed.extend_from_slice(&bytes);
                continue;
            };
            let opened = codec.open(&bytes, &mut channel.passed);
            let ended = channel.ended.is_some() && opened.is_ok();
            let result = if ended { codec.finish() } else { opened };
            broken = result.err().map(|reason| (name, reason)).or(broken);
        }
        broken.is_some_and(|(name, reason)| self.break_join(name, reason))
    }

    fn break_join(&mut self, first: ChannelRef, reason: DropReason) -> bool {
        let mut joins = self.joins.iter();
        let Some((&session, _)) = joins.find(|(_, (one, _))| *one == first) else {
            return false;
        };
        self.codecs.remove(&first);
        let end = JoinEnd::Codec(reason);
        self.separate(session);
        let now = self.clock.now();
        let machine = self.machine.as_mut().expect("a join goes with its machine");
        machine
            .handle_input(Input::JoinEnded { session, end }, now)
            .expect("the end of its join");
        self.drain();
        true
    }

    pub(super) fn separate(&mut self, session: LocalRef) {
        let (first, second) = self.joins.remove(&session).expect("a joined session");
        for channel in [first, second] {
            self.channels.get_mut(&channel).expect("a channel").stage = Stage::Closed;
        }
    }

    /// A token for a context, which [`crate::gss`] answers as late as other questions about who somebody is.
    pub(super) fn context_requested(&mut self, session: LocalRef, request: ContextRequest) {
        let at = self.clock.now() + self.policy.judging_delay;
        let negotiation = request.negotiation.unwrap_or_else(|| Box::new(Begun));
        let answer = negotiation.accept(&request.token);
        self.later(at, Answer::Context(session, answer));
        let token = request.token;
        self.record(Seen::ContextRequested { session, token });
    }
}
