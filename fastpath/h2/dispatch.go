package h2

// frames handles all whole frames of b and returns how many bytes they were. more is true when it stopped only for the answers to be sent.
func (c *Conn) frames(b []byte) (used int, more bool, err error) {
	if !c.prefaceSeen {
		if used, err = c.preface(b); used == 0 {
			return 0, false, err
		}
	}
	for len(b)-used >= frameHeaderLen {
		h := parseFrameHeader(b[used:])
		if h.length > maxFrameSize {
			return used, false, connErr(FrameSizeError, "frame larger than SETTINGS_MAX_FRAME_SIZE")
		}
		end := used + frameHeaderLen + h.length
		if len(b) < end {
			break
		}
		payload := b[used+frameHeaderLen : end : end]
		used = end
		if err := c.frame(h, payload); err != nil {
			return used, false, err
		}
		c.reap()
		switch {
		case c.writer.busy && c.unsent() > c.cfg.MaxSendBuffer:
			return used, false, flood("answers are not read", ReasonUnread)
		case !c.writer.busy && c.unsent() > flushSize:
			return used, true, nil
		}
	}
	return used, false, nil
}

// preface checks the client's preface (RFC 9113 section 3.4); it returns 0 when more bytes are needed.
func (c *Conn) preface(b []byte) (used int, err error) {
	n := min(len(b), len(preface))
	if string(b[:n]) != preface[:n] {
		return 0, connErr(ProtocolError, "no HTTP/2 connection preface")
	}
	if n < len(preface) {
		return 0, nil
	}
	c.prefaceSeen = true
	c.sendSettings()
	return len(preface), nil
}

func (c *Conn) frame(h frameHeader, p []byte) error {
	if !c.settingsSeen && h.typ != frameSettings {
		return connErr(ProtocolError, "first frame is not SETTINGS")
	}
	if c.blockID != 0 && (h.typ != frameContinuation || h.streamID != c.blockID) {
		return connErr(ProtocolError, "header block interrupted")
	}
	switch h.typ {
	case frameData:
		return c.onData(h, p)
	case frameHeaders:
		return c.onHeaders(h, p)
	case framePriority:
		return c.onPriority(h, p)
	case frameRSTStream:
		return c.onRSTStream(h, p)
	case frameSettings:
		return c.onSettings(h, p)
	case framePushPromise:
		return connErr(ProtocolError, "PUSH_PROMISE") // From a client, or although we have disabled it.
	case framePing:
		return c.onPing(h, p)
	case frameGoAway:
		return c.onGoAway(h, p)
	case frameWindowUpdate:
		return c.onWindowUpdate(h, p)
	case frameContinuation:
		return c.onContinuation(h, p)
	}
	c.budget.control++ // Unknown types are ignored (RFC 9113 section 4.1), within the budget.
	return nil
}
