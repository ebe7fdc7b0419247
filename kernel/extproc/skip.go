package extproc

import "github.com/policy-engine/policy-engine/kernel/route"

// allSkip reports whether all policies of a segment of the body phase skip the body.
func (d *direction) allSkip(s *route.Segment) bool {
	for i := range s.Policies {
		if !s.Skips(&s.Policies[i], d.skipped) {
			return false
		}
	}
	return true
}

// skipBody notes the policies that, as a result of the header phase says, skip the body of the message.
func (m *Machine) skipBody(skips uint64) {
	// Fast path: most policies take part in what they can.
	if skips != 0 {
		m.direction(m.phase).skipped |= skips << m.segment.First
	}
}

// maySkip reports whether the segment called last may skip the body for these of its chain's policies.
func (m *Machine) maySkip(skips uint64) bool {
	// Fast path.
	if skips == 0 {
		return true
	}
	if m.stage != requestHeaders && m.stage != responseHeaders {
		return false
	}
	body := m.plan().Body
	for i := range body {
		if s := &body[i]; s.Position == m.segment.Position {
			for j := range s.Policies {
				skips &^= 1 << s.Policies[j].Index
			}
		}
	}
	return skips == 0
}

// bodyUse returns what the policies that are left to run do with the body: whether there are any, and whether one may
// replace it, or wants it decoded.
func (m *Machine) bodyUse() (taken, replaced, decoded bool) {
	d, segments := m.direction(m.phase), m.plan().Body
	for i := range segments {
		s := &segments[i]
		limit, runs := m.limitOf(s, true)
		if !runs {
			continue
		}
		taken = true
		for j := range s.Policies {
			p := &s.Policies[j]
			if limit > 0 && p.Index+1 >= int(limit) || s.Skips(p, d.skipped) {
				continue
			}
			replaced, decoded = replaced || p.ReplacesBody, decoded || p.DecodesBody
		}
	}
	return taken, replaced, decoded
}

// lengthStays reports whether the body under way is not longer than what came of it, and no shorter at its end, where
// its headers went on with their content-length because no policy may replace it: a worker that does otherwise would
// put bytes of its own behind the response.
func (m *Machine) lengthStays() bool {
	d := m.direction(m.phase)
	if d.replaces || d.mode != route.BodyStreamed {
		return true
	}
	if m.body.replaced {
		d.heldBack += len(m.body.message) - len(m.body.bytes)
	}
	return d.heldBack == 0 || d.heldBack > 0 && !m.body.last
}
