//! The calls into the C library that the wrapper does not offer as they are needed.

use std::ffi::{CStr, c_char, c_void};
use std::ptr;

use rdkafka::bindings::{self, rd_kafka_resp_err_t};
use rdkafka::message::BorrowedMessage;
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

/// The headers of a record. The wrapper's own reader panics at a name that is not UTF-8, and a publisher may write any
/// bytes; here what is not UTF-8 in a name is replaced.
#[expect(unsafe_code, reason = "the wrapper offers header names only as text that must be UTF-8")]
pub(super) fn headers(message: &BorrowedMessage<'_>) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut headers = ptr::null_mut();
    // SAFETY: the message is borrowed for the whole function, and the list that is given out belongs to it.
    let found = unsafe { bindings::rd_kafka_message_headers(message.ptr(), &raw mut headers) };
    if found != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return all;
    }
    loop {
        let mut name: *const c_char = ptr::null();
        let mut value: *const c_void = ptr::null();
        let mut length = 0;
        // SAFETY: the list lives as long as the message; an index beyond its end is answered by an error.
        let found = unsafe {
            bindings::rd_kafka_header_get_all(headers, all.len(), &raw mut name, &raw mut value, &raw mut length)
        };
        if found != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return all;
        }
        // SAFETY: a name is a text with an end, and belongs to the list.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        // SAFETY: a value that is not null has this length, and belongs to the list.
        let value = if value.is_null() { &[] } else { unsafe { std::slice::from_raw_parts(value.cast(), length) } };
        all.push((name, value.to_vec()));
    }
}
