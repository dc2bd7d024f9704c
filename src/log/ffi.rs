//! The one call into the C library that the wrapper does not offer as it is needed.

use rdkafka::producer::{BaseProducer, Producer, ProducerContext};

/// Asks the client to send what lingers, for one millisecond. The wrapper's own `flush` waits in steps of 100 ms, and
/// a commit every 100 ms would spend half its time there.
#[expect(unsafe_code, reason = "rd_kafka_flush with a short time-out is reachable by no safe call")]
pub(super) fn nudge<C: ProducerContext>(producer: &BaseProducer<C>) {
    let native = producer.client().native_ptr();
    // SAFETY: the pointer belongs to a live producer, which is borrowed for the whole call; the function is
    // thread-safe and keeps no reference.
    unsafe {
        rdkafka::bindings::rd_kafka_flush(native, 1);
    }
}
