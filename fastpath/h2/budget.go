package h2

// budget counts what a well-behaved peer sends rarely, over windows of a second. A connection over its budget is closed with ENHANCE_YOUR_CALM.
//
// Envoy resets every stream that it has an answer for: those are normal traffic and cost nothing here. Useless streams are the ones that ended before
// there was an answer (rapid reset, CVE-2023-44487) or that broke a rule; a burst of clients that go away looks the same, so the limit is
// high, and applies only when they are also most of the traffic.
//
// A peer may answer what we send with control frames: grpc-go sends a PING for DATA to estimate the bandwidth, everybody sends WINDOW_UPDATE, and a RST_STREAM may come for a stream
// that is gone. Each frame of an answer pays for one of them.
type budget struct {
	since           int64  // start of the window, in nanoseconds
	control         uint32 // all control frames
	settings, pings uint32 // of these
	windows         uint32
	useless         uint32
	useful          uint32
	answers         uint32 // HEADERS and DATA that we sent
	// owed counts the answered streams that were reset because the peer did not close its side in time: for each of them
	// one frame may still come, in any window, that finds no stream.
	owed uint32
}

const (
	budgetWindow = int64(1e9)
	maxControl   = 1000
	maxWindows   = 50_000
	maxUseless   = 2000 // or as many as the streams that may be open, up to 4 times this
)

// late charges a frame for a stream that has ended.
func (b *budget) late() {
	if b.owed > 0 {
		b.owed--
		return
	}
	b.control++
}

// check is called after each read. streams is how many the connection may have open: a peer that gives all of them up at
// once, such as an Envoy whose timeouts end together, is no attack.
func (b *budget) check(now int64, streams uint32) error {
	switch {
	case b.control > maxControl+b.answers:
		label := ReasonControl
		switch {
		case b.settings > b.control/2:
			label = ReasonSettings
		case b.pings > b.control/2:
			label = ReasonPings
		}
		return flood("too many control frames", label)
	case b.windows > maxWindows+4*b.answers:
		return flood("too many WINDOW_UPDATE frames", ReasonWindows)
	case b.useless > max(maxUseless, min(streams, 4*maxUseless)) && b.useless > b.useful:
		return flood("too many streams reset before their answer", ReasonResets)
	}
	if now-b.since > budgetWindow {
		*b = budget{since: now, owed: b.owed}
	}
	return nil
}
