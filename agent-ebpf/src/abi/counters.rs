//! Counters of what the kernel side lost or gave up.

macro_rules! counters {
    ($($(#[doc = $doc:expr])+ $name:ident = $text:literal,)+) => {
        /// Cause of a loss on the kernel side. Each is a column of the table of counters.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter { $($(#[doc = $doc])+ $name,)+ }

        impl Counter {
            /// All counters, in the order of their numbers.
            pub const ALL: &'static [Counter] = &[$(Counter::$name,)+];
            /// Returns whether it counts a loss; the others inform.
            pub const fn is_loss(self) -> bool {
                !matches!(
                    self,
                    Self::NotHttp
                        | Self::Wakeups
                        | Self::TornSequence
                        | Self::TooLarge
                        | Self::UpperLayer
                        | Self::CloseRange
                        | Self::Skipped
                        | Self::Splices
                )
            }
            /// Returns the `cause` label of the metric `spoor_kernel_lost_total`, or `spoor_kernel_events_total` if it is no loss.
            pub const fn name(self) -> &'static str { match self { $(Counter::$name => $text,)+ } }
        }
    };
}

counters! {
    /// The ring buffer had no room for a record.
    RingFull = "ring_full",
    /// The table of connections was full.
    ConnectionsFull = "connections_full",
    /// Bytes of a call could not be matched with the socket's sequence numbers (fd replaced, two threads at once).
    SequenceMismatch = "sequence_mismatch",
    /// Bytes that passed between two calls without an event.
    Unreported = "unreported_bytes",
    /// A read of user memory faulted.
    UserFault = "user_fault",
    /// A read of kernel memory failed.
    KernelFault = "kernel_fault",
    /// Bytes in the middle of a call that is too large to be copied whole. Mostly body; Core counts the rest.
    TooLarge = "call_too_large",
    /// The bytes lay in more buffers than a walk visits.
    TooManyBuffers = "too_many_buffers",
    /// A connection began with something else than HTTP/1.
    NotHttp = "connection_not_http",
    /// Two readings of a socket's sequence numbers disagreed.
    TornSequence = "torn_sequence",
    /// The program that makes records was missing.
    NoReporter = "no_reporter",
    /// A reader was woken.
    Wakeups = "reader_wakeups",
    /// A connection was ignored because its socket has another protocol on top in the kernel (`TCP_ULP`: kTLS): calls move
    /// other bytes than the wire.
    UpperLayer = "connection_upper_layer",
    /// A program did nothing, because the program that it preempted on its processor was not done.
    Preempted = "program_preempted",
    /// A close_range(2) of a process with Unix connections named more descriptors than the program looks at: the ends of the
    /// others are reported when the agent finds them gone.
    CloseRange = "close_range_not_walked",
    /// The kernel did not run a program. The kernel counts these; the agent copies the number.
    Skipped = "program_skipped",
    /// A target sent bytes by splice(2): so it may also receive by it, which is no event of sockets.
    Splices = "sends_by_splice",
    /// A connection without sequence numbers was given up: its process had moved bytes by splice(2), and nothing told
    /// whether they came from it.
    Uncounted = "connection_uncounted",
    /// Bytes that an io_uring moved while it was not known which of its requests did.
    UnknownRequest = "unknown_request_bytes",
}

/// Columns of the counter table: a row of `u64` for each processor.
pub const COUNTER_COLUMNS: usize = 32;

const _: () = assert!(Counter::ALL.len() <= COUNTER_COLUMNS);
