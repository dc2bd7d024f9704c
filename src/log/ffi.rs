//! The calls into the C library that the wrapper does not offer as they are needed.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::bindings::{self, rd_kafka_resp_err_t};
use rdkafka::client::Client;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
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

/// First and next offset of a partition as the last fetch told them, without asking the cluster; `None` before that.
#[expect(unsafe_code, reason = "the wrapper only has the call that asks the cluster")]
pub(super) fn heard_offsets<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
) -> Option<(i64, i64)> {
    let topic = CString::new(topic).ok()?;
    let (mut low, mut high) = (-1i64, -1i64);
    // SAFETY: the client is alive and borrowed for the whole call, the name is NUL-terminated, and both numbers outlive
    // the call, which keeps no reference.
    let answer = unsafe {
        bindings::rd_kafka_get_watermark_offsets(
            consumer.client().native_ptr(),
            topic.as_ptr(),
            partition,
            &raw mut low,
            &raw mut high,
        )
    };
    let is_heard = answer == bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0;
    is_heard.then_some((low.max(0), high))
}

/// The name that the group's coordinator knows this consumer by; empty or `None` while it knows it by none.
#[expect(unsafe_code, reason = "the wrapper has no call for it")]
pub(super) fn member_name<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<String> {
    let native = consumer.client().native_ptr();
    // SAFETY: the client is alive and borrowed for the whole call.
    let name = unsafe { bindings::rd_kafka_memberid(native) };
    if name.is_null() {
        return None;
    }
    // SAFETY: a text with an end that is ours now; it is copied, and given back once.
    unsafe {
        let copy = CStr::from_ptr(name).to_string_lossy().into_owned();
        bindings::rd_kafka_mem_free(native, name.cast());
        Some(copy)
    }
}

/// Sets some settings of a topic and leaves the others. The wrapper's own call replaces all of them, and tells no refusal.
///
/// # Errors
/// The cluster refuses, in its own words, or it does not answer within `limit`.
#[expect(unsafe_code, reason = "the wrapper has no call that changes single settings")]
pub(super) fn set_topic_settings<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    settings: &[(&str, &str)],
    limit: Duration,
) -> Result<(), (RDKafkaErrorCode, String)> {
    let text = |text: &str| CString::new(text).map_err(|e| (RDKafkaErrorCode::InvalidArgument, e.to_string()));
    let topic = text(topic)?;
    let settings =
        settings.iter().map(|(name, value)| Ok((text(name)?, text(value)?))).collect::<Result<Vec<_>, _>>()?;
    let limit_ms = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client is borrowed for the whole function; texts live as long, and the calls copy them. Resource, queue
    // and event are made here and destroyed once each, after their last use; an event that does not come in time is
    // dropped by the library, since its queue is gone by then.
    unsafe {
        let kind = bindings::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
        let resource = bindings::rd_kafka_ConfigResource_new(kind, topic.as_ptr());
        if resource.is_null() {
            return Err((RDKafkaErrorCode::InvalidArgument, "no such topic can exist".to_owned()));
        }
        for (name, value) in &settings {
            let set = bindings::rd_kafka_AlterConfigOpType_t::RD_KAFKA_ALTER_CONFIG_OP_TYPE_SET;
            let error =
                bindings::rd_kafka_ConfigResource_add_incremental_config(resource, name.as_ptr(), set, value.as_ptr());
            if !error.is_null() {
                let why = owned(bindings::rd_kafka_error_string(error));
                bindings::rd_kafka_error_destroy(error);
                bindings::rd_kafka_ConfigResource_destroy(resource);
                return Err((RDKafkaErrorCode::InvalidArgument, why));
            }
        }
        let queue = bindings::rd_kafka_queue_new(client.native_ptr());
        let mut resources = [resource];
        bindings::rd_kafka_IncrementalAlterConfigs(
            client.native_ptr(),
            resources.as_mut_ptr(),
            resources.len(),
            ptr::null(),
            queue,
        );
        let event = bindings::rd_kafka_queue_poll(queue, limit_ms);
        let answer = if event.is_null() {
            Err((RDKafkaErrorCode::OperationTimedOut, format!("no answer within {} s", limit.as_secs())))
        } else {
            let answer = altered(event);
            bindings::rd_kafka_event_destroy(event);
            answer
        };
        bindings::rd_kafka_queue_destroy(queue);
        bindings::rd_kafka_ConfigResource_destroy(resource);
        answer
    }
}

/// The answer to a change of settings.
///
/// # Safety
/// The event is alive, and the answer to that call.
#[expect(unsafe_code, reason = "it reads what the C library gives out")]
unsafe fn altered(event: *mut bindings::rd_kafka_event_t) -> Result<(), (RDKafkaErrorCode, String)> {
    // SAFETY: by this function's own condition; what is read belongs to the event, and texts are copied.
    unsafe {
        let code = bindings::rd_kafka_event_error(event);
        if code != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err((code.into(), owned(bindings::rd_kafka_event_error_string(event))));
        }
        let result = bindings::rd_kafka_event_IncrementalAlterConfigs_result(event);
        let mut count = 0;
        let resources = bindings::rd_kafka_IncrementalAlterConfigs_result_resources(result, &raw mut count);
        for i in 0..count {
            let resource = *resources.add(i);
            let code = bindings::rd_kafka_ConfigResource_error(resource);
            if code != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return Err((code.into(), owned(bindings::rd_kafka_ConfigResource_error_string(resource))));
            }
        }
        Ok(())
    }
}

/// # Safety
/// The pointer is null or leads to a text with an end.
#[expect(unsafe_code, reason = "it reads a text of the C library")]
unsafe fn owned(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by this function's own condition.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
