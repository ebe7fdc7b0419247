// Package extproc is the only room that knows Envoy's messages: a pure state machine per ext_proc stream, and the translation of what workers decide.
//
// Nothing here does I/O, waits, or keeps time: a driver delivers events (the stream began, a message came, a call has an outcome) and carries out the effects.
//
// One rule stands above all others. A stream that closes with OK before a decision makes Envoy forward the request unprocessed, failure_mode_allow or not
// (Envoy 1.36 ext_proc.cc, onGrpcClose). So every way out of the machine is an answer to each phase that the route wants, or a status other than OK.
package extproc
