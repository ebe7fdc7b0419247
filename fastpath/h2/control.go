package h2

import (
	"encoding/binary"
	"time"
)

// sendSettings sends our settings and opens the connection's window.
func (c *Conn) sendSettings() {
	cfg := c.cfg
	first, value := uint16(settingMaxConcurrentStreams), cfg.MaxConcurrentStreams
	if c.client {
		first, value = settingEnablePush, 0
	}
	c.out = appendFrameHeader(c.out, 5*6, frameSettings, 0, 0)
	c.out = appendSetting(c.out, first, value)
	c.out = appendSetting(c.out, settingInitialWindowSize, cfg.StreamWindow)
	c.out = appendSetting(c.out, settingMaxHeaderListSize, cfg.MaxHeaderListSize)
	c.out = appendSetting(c.out, settingMaxFrameSize, maxFrameSize)
	c.out = appendSetting(c.out, settingHeaderTableSize, headerTableSize)
	if cfg.ConnWindow > defaultWindow {
		c.out = appendWindowUpdate(c.out, 0, cfg.ConnWindow-defaultWindow)
	}
}

func (c *Conn) onSettings(h frameHeader, p []byte) error {
	if h.streamID != 0 {
		return connErr(ProtocolError, "SETTINGS on a stream")
	}
	if h.has(flagAck) {
		if len(p) != 0 {
			return connErr(FrameSizeError, "SETTINGS acknowledgement with a payload")
		}
		if !c.settingsSeen {
			return connErr(ProtocolError, "first SETTINGS is an acknowledgement")
		}
		c.settingsAcked = true
		c.budget.control++
		c.budget.settings++
		return nil
	}
	if len(p)%6 != 0 {
		return connErr(FrameSizeError, "SETTINGS")
	}
	first := !c.settingsSeen
	c.settingsSeen = true
	if !first {
		c.budget.control += 1 + uint32(len(p)/settingsUnit)
		c.budget.settings += 1 + uint32(len(p)/settingsUnit)
	}
	window := c.peerInitialWindow
	for ; len(p) > 0; p = p[6:] {
		id, v := binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[2:])
		if err := c.setting(id, v); err != nil {
			return err
		}
		if id == settingInitialWindowSize {
			window = int64(v) // Only the last one counts, so that a frame never goes through the streams twice.
		}
	}
	// The acknowledgement comes before what a larger window lets go.
	c.out = appendFrameHeader(c.out, 0, frameSettings, flagAck, 0)
	if first {
		if err := c.established(); err != nil {
			return err
		}
	}
	return c.changeWindows(window)
}

// settingsUnit is how many bytes of a SETTINGS frame cost as much as a frame.
const settingsUnit = 1024

// established is called for the peer's first SETTINGS: the handshake is over.
func (c *Conn) established() error {
	if c.drain.wanted {
		c.announceDrain()
	}
	return c.nc.SetReadDeadline(time.Time{})
}

func (c *Conn) setting(id uint16, v uint32) error {
	switch id {
	case settingHeaderTableSize:
		// The encoder has to acknowledge a smaller table in its next block (RFC 7541 section 4.2), although ours never uses it.
		if v < headerTableSize && !c.tableShrunk {
			c.tableShrunk, c.shrinkTable = true, true
		}
	case settingEnablePush:
		if v > 1 || c.client && v != 0 {
			return connErr(ProtocolError, "SETTINGS_ENABLE_PUSH")
		}
	case settingMaxConcurrentStreams:
		c.peerMaxStreams = v
	case settingInitialWindowSize:
		if v > maxWindow {
			return connErr(FlowControlError, "SETTINGS_INITIAL_WINDOW_SIZE")
		}
	case settingMaxFrameSize:
		if v < maxFrameSize || v > 1<<24-1 {
			return connErr(ProtocolError, "SETTINGS_MAX_FRAME_SIZE")
		}
		c.peerMaxFrame = min(v, 64<<10)
	case settingMaxHeaderListSize:
		c.peerMaxHeaderList = v
	}
	return nil
}

// changeWindows applies a new initial window to all streams (RFC 9113 section 6.9.2).
func (c *Conn) changeWindows(window int64) error {
	delta := window - c.peerInitialWindow
	if delta == 0 {
		return nil
	}
	c.peerInitialWindow = window
	for _, s := range c.streams {
		if s.sendWindow += delta; s.sendWindow > maxWindow {
			return connErr(FlowControlError, "SETTINGS_INITIAL_WINDOW_SIZE overflows a window")
		}
		if s.hasPending() {
			s.drain()
		}
	}
	return nil
}

func (c *Conn) onPing(h frameHeader, p []byte) error {
	if h.streamID != 0 {
		return connErr(ProtocolError, "PING on a stream")
	}
	if len(p) != 8 {
		return connErr(FrameSizeError, "PING")
	}
	c.budget.control++
	c.budget.pings++
	if !h.has(flagAck) {
		c.out = appendPing(c.out, flagAck, string(p))
		return nil
	}
	if c.drain.announced > 0 && string(p) == drainPing {
		c.finishDrain()
	}
	return nil
}

func (c *Conn) onGoAway(h frameHeader, p []byte) error {
	if h.streamID != 0 {
		return connErr(ProtocolError, "GOAWAY on a stream")
	}
	if len(p) < 8 {
		return connErr(FrameSizeError, "GOAWAY")
	}
	c.budget.control++
	c.peerGone = true
	if c.client {
		c.refused(binary.BigEndian.Uint32(p) & streamIDMask)
	}
	return nil
}

func (c *Conn) onWindowUpdate(h frameHeader, p []byte) error {
	if len(p) != 4 {
		return connErr(FrameSizeError, "WINDOW_UPDATE")
	}
	c.budget.windows++
	increment := int64(binary.BigEndian.Uint32(p) & streamIDMask)
	if h.streamID == 0 {
		if increment == 0 {
			return connErr(ProtocolError, "WINDOW_UPDATE of 0")
		}
		if c.sendWindow += increment; c.sendWindow > maxWindow {
			return connErr(FlowControlError, "connection window overflow")
		}
		c.drainWaiting()
		return nil
	}
	s := c.streams[h.streamID]
	switch {
	case s == nil && c.idle(h.streamID):
		return connErr(ProtocolError, "WINDOW_UPDATE on an idle stream")
	case s == nil: // It may have crossed our END_STREAM.
		return nil
	case increment == 0:
		c.resetStream(s, ProtocolError)
		return nil
	}
	if s.sendWindow += increment; s.sendWindow > maxWindow {
		c.resetStream(s, FlowControlError)
		return nil
	}
	if s.hasPending() {
		s.drain()
	}
	return nil
}

func (c *Conn) onPriority(h frameHeader, p []byte) error {
	c.budget.control++
	if h.streamID == 0 {
		return connErr(ProtocolError, "PRIORITY on stream 0")
	}
	code := NoError
	switch {
	case len(p) != 5:
		code = FrameSizeError
	case binary.BigEndian.Uint32(p)&streamIDMask == h.streamID:
		code = ProtocolError
	default:
		return nil // RFC 9113 section 5.3.2: priorities are deprecated.
	}
	s := c.streams[h.streamID]
	switch {
	case s != nil:
		c.resetStream(s, code)
	case c.idle(h.streamID): // It must not be reset (RFC 9113 section 6.4).
		return connErr(code, "malformed PRIORITY on an idle stream")
	default:
		c.out = appendRSTStream(c.out, h.streamID, code)
	}
	return nil
}

func (c *Conn) onRSTStream(h frameHeader, p []byte) error {
	if c.idle(h.streamID) {
		return connErr(ProtocolError, "RST_STREAM on an idle stream")
	}
	if len(p) != 4 {
		return connErr(FrameSizeError, "RST_STREAM")
	}
	s := c.streams[h.streamID]
	if s == nil {
		c.budget.late()
		return nil
	}
	if !s.answered && !c.client {
		c.budget.useless++
	}
	c.drop(s)
	return nil
}
