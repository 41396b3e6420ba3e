//! Modules and the macro that derives them, layers and their settings.
#![allow(clippy::unwrap_used)] // The helpers beside the tests are tests too.

mod attention;
mod derive;
mod dropout;
mod files;
mod inits;
mod linear;
mod modules;
mod sequential;
