//! Counters with names.

/// Defines a struct of counters, and a list of them by name.
macro_rules! counters {
    ($(#[$about:meta])* $vis:vis struct $name:ident { $($(#[$doc:meta])* $field:ident,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        $vis struct $name {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl $name {
            /// Lists all of them, by name.
            pub(crate) fn named(self) -> impl Iterator<Item = (&'static str, u64)> {
                let Self { $($field),* } = self;
                [$((stringify!($field), $field)),*].into_iter()
            }
        }
    };
}

pub(crate) use counters;
