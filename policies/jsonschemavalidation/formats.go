package jsonschemavalidation

import (
	"errors"
	"net/netip"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/net/idna"
)

// formats are the checkers in place of those of the library (6.0.3), which take more than their RFCs: +1.-0.2.3 for an
// address, <script> in a URI, a mailbox without a name. The library's own are semver and period, which JSON Schema has
// not.
var formats = []*jsonschema.Format{
	format("date", "a full-date of RFC 3339", isDate),
	format("date-time", "a date-time of RFC 3339", isDateTime),
	format("duration", "a duration of RFC 3339 appendix A", isDuration),
	format("email", "a Mailbox of RFC 5321", isEmail),
	format("hostname", "a host name of RFC 1123", isHostname),
	format("ipv4", "four numbers of 0 to 255 with dots", isIPv4),
	format("ipv6", "an address of RFC 4291", isIPv6),
	format("iri", "an IRI of RFC 3987", func(s string) bool { return isURI(s, true, false) }),
	format("iri-reference", "an IRI-reference of RFC 3987", func(s string) bool { return isURI(s, true, true) }),
	format("json-pointer", "a JSON Pointer of RFC 6901", isPointer),
	format("relative-json-pointer", "a relative JSON Pointer", isRelativePointer),
	format("time", "a full-time of RFC 3339", isTime),
	format("uri", "a URI of RFC 3986", func(s string) bool { return isURI(s, false, false) }),
	format("uri-reference", "a URI-reference of RFC 3986", func(s string) bool { return isURI(s, false, true) }),
	format("uri-template", "a URI template of RFC 6570", isTemplate),
	format("uuid", "a UUID of RFC 9562", isUUID),
}

// unsupportedFormats are those of JSON Schema that are errors in a schema: to ignore them would let pass what the
// schema is there to refuse.
var unsupportedFormats = []string{"idn-email", "idn-hostname"}

var formatNames = func() string {
	var names []string
	for _, f := range formats {
		names = append(names, f.Name)
	}
	return strings.Join(append(names, "regex"), ", ")
}()

func format(name, what string, is func(string) bool) *jsonschema.Format {
	wrong := errors.New("must be " + what)
	return &jsonschema.Format{Name: name, Validate: func(v any) error {
		if s, ok := v.(string); ok && !is(s) {
			return wrong
		}
		return nil
	}}
}

// What an expression of a body may cost its parser, in steps of patterns: \p{L} is a set of 600 ranges, which are
// sorted.
const (
	regexByteCost  = 50
	regexClassCost = 40_000
)

var (
	regexClass    = regexp.MustCompile(`\\[pP]`)
	errRegexFlags = errors.New("flags and (?P are not of ECMA 262")
)

// validateRegex is the checker of the format regex. It does not compile the expression, because repetitions would
// multiply it. It takes no flags, because a parser takes milliseconds to find the other case of a large range.
func (c *checker) validateRegex(v any) error {
	s, ok := v.(string)
	if !ok {
		return nil
	}
	err := c.patterns.Charge(regexByteCost * int64(len(s)))
	if err == nil {
		err = c.patterns.Charge(regexClassCost * int64(len(regexClass.FindAllStringIndex(s, -1))))
	}
	if err != nil {
		panic(stop{err})
	}
	if hasFlags(s) || strings.Contains(s, "(?P") {
		return errRegexFlags
	}
	translated, err := translate(s)
	if err != nil {
		return err
	}
	_, err = syntax.Parse(translated, syntax.Perl)
	return err
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

func isHex(c byte) bool { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }

// number reads digits only, between least and most.
func number(s string, least, most int) (n int, ok bool) {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return 0, false
		}
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && least <= n && n <= most
}

// isDate is section 5.6 of RFC 3339.
func isDate(s string) bool {
	if len(s) != 10 || s[4] != '-' || s[7] != '-' {
		return false
	}
	year, ok := number(s[:4], 0, 9999)
	month, ok2 := number(s[5:7], 1, 12)
	if !ok || !ok2 {
		return false
	}
	days := 31
	switch month {
	case 4, 6, 9, 11:
		days = 30
	case 2:
		days = 28
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			days = 29
		}
	}
	_, ok = number(s[8:], 1, days)
	return ok
}

// isTime is section 5.6 of RFC 3339. A leap second is at the end of a day in UTC.
func isTime(s string) bool {
	if len(s) < 9 || s[2] != ':' || s[5] != ':' {
		return false
	}
	hour, ok := number(s[:2], 0, 23)
	minute, ok2 := number(s[3:5], 0, 59)
	second, ok3 := number(s[6:8], 0, 60)
	if !ok || !ok2 || !ok3 {
		return false
	}
	rest := s[8:]
	if rest[0] == '.' {
		fraction := strings.TrimLeft(rest[1:], "0123456789")
		if len(fraction) == len(rest)-1 {
			return false
		}
		rest = fraction
	}
	offset := 0
	if rest != "Z" && rest != "z" {
		if len(rest) != 6 || rest[0] != '+' && rest[0] != '-' || rest[3] != ':' {
			return false
		}
		hours, ok := number(rest[1:3], 0, 23)
		minutes, ok2 := number(rest[4:], 0, 59)
		if !ok || !ok2 {
			return false
		}
		offset = 60*hours + minutes
		if rest[0] == '-' {
			offset = -offset
		}
	}
	const day = 24 * 60
	return second < 60 || (60*hour+minute-offset+day)%day == day-1
}

func isDateTime(s string) bool {
	return len(s) > 11 && s[10]|0x20 == 't' && isDate(s[:10]) && isTime(s[11:])
}

// isDuration is appendix A of RFC 3339: units follow each other without a gap.
func isDuration(s string) bool {
	rest, ok := strings.CutPrefix(s, "P")
	if !ok {
		return false
	}
	date, time, timed := strings.Cut(rest, "T")
	switch {
	case timed:
		return (date == "" || units(date, "YMD")) && units(time, "HMS")
	case strings.HasSuffix(date, "W"):
		return units(date, "W")
	}
	return units(date, "YMD")
}

func units(s, order string) bool {
	next := -1
	for s != "" {
		rest := strings.TrimLeft(s, "0123456789")
		if len(rest) == len(s) || rest == "" {
			return false
		}
		i := strings.IndexByte(order, rest[0])
		if i < 0 || next >= 0 && i != next {
			return false
		}
		next, s = i+1, rest[1:]
	}
	return next > 0
}

// isEmail is Mailbox of section 4.1.2 of RFC 5321, within the limits of section 4.5.3.1.
func isEmail(s string) bool {
	at := strings.LastIndexByte(s, '@')
	if len(s) > 254 || at < 1 || at > 64 {
		return false
	}
	local, domain := s[:at], s[at+1:]
	if !isDotString(local) && !isQuotedString(local) {
		return false
	}
	if literal, ok := strings.CutPrefix(domain, "["); ok {
		literal, ok = strings.CutSuffix(literal, "]")
		six, tagged := strings.CutPrefix(literal, "IPv6:")
		return ok && (tagged && isIPv6(six) || isIPv4(literal))
	}
	return isHostname(domain)
}

func isDotString(s string) bool {
	for atom := range strings.SplitSeq(s, ".") {
		if atom == "" {
			return false
		}
		for i := range len(atom) {
			if c := atom[i]; !isLetter(c) && !isDigit(c) && strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) < 0 {
				return false
			}
		}
	}
	return true
}

func isQuotedString(s string) bool {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return false
	}
	inner := s[1 : len(s)-1]
	for i := 0; i < len(inner); i++ {
		c := inner[i]
		if c == '\\' {
			if i++; i == len(inner) {
				return false
			}
			c = inner[i]
		} else if c == '"' {
			return false
		}
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// isHostname is section 2.1 of RFC 1123, with labels of RFC 5891 in their ASCII form.
func isHostname(s string) bool {
	if !isPlainHostname(s) {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if len(label) >= 4 && label[2:4] == "--" && !isALabel(label) {
			return false
		}
	}
	return true
}

// plainHostname is what drafts before 7 mean by hostname.
var plainHostname = format("hostname", "a host name of RFC 1123", isPlainHostname)

func isPlainHostname(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if c := label[i]; !isLetter(c) && !isDigit(c) && c != '-' {
				return false
			}
		}
	}
	return true
}

var registration = idna.New(idna.ValidateForRegistration(), idna.CheckJoiners(true))

// isALabel reports whether a label with "--" in third place is a label of RFC 5891.
func isALabel(label string) bool {
	label = strings.ToLower(label)
	if !strings.HasPrefix(label, "xn--") {
		return false
	}
	text, err := registration.ToUnicode(label)
	return err == nil && text != label && contextual(text)
}

// contextual is sections 2.6 and appendices A.3 to A.9 of RFC 5892, which package idna leaves out.
func contextual(label string) bool {
	runes := []rune(label)
	arabic, extended := false, false
	japanese := strings.ContainsFunc(label, func(r rune) bool { return unicode.In(r, unicode.Hiragana, unicode.Katakana, unicode.Han) })
	at := func(i int) rune {
		if i < 0 || i >= len(runes) {
			return -1
		}
		return runes[i]
	}
	for i, r := range runes {
		ok := true
		switch {
		case r == '·': // MIDDLE DOT
			ok = at(i-1) == 'l' && at(i+1) == 'l'
		case r == '\u0375': // GREEK LOWER NUMERAL SIGN
			ok = unicode.Is(unicode.Greek, at(i+1))
		case r == '\u05f3', r == '\u05f4': // HEBREW PUNCTUATION GERESH and GERSHAYIM
			ok = unicode.Is(unicode.Hebrew, at(i-1))
		case r == '\u0640', r == '\u07fa', r == '\u302e', r == '\u302f', '\u3031' <= r && r <= '\u3035', r == '\u303b':
			ok = false
		case r == '\u30fb': // KATAKANA MIDDLE DOT
			ok = japanese
		case '\u0660' <= r && r <= '\u0669':
			arabic = true
		case '\u06f0' <= r && r <= '\u06f9':
			extended = true
		}
		if !ok {
			return false
		}
	}
	return !arabic || !extended
}

// isIPv4 is dotted-quad of section 3.2 of RFC 2673, without leading zeros.
func isIPv4(s string) bool {
	parts := strings.SplitN(s, ".", 5)
	if len(parts) != 4 {
		return false
	}
	for _, part := range parts {
		if _, ok := number(part, 0, 255); !ok || len(part) > 1 && part[0] == '0' {
			return false
		}
	}
	return true
}

// isIPv6 is section 2.2 of RFC 4291.
func isIPv6(s string) bool {
	if len(s) > 45 || strings.IndexByte(s, ':') < 0 {
		return false
	}
	addr, err := netip.ParseAddr(s)
	return err == nil && addr.Zone() == ""
}

func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch i {
		case 8, 13, 18, 23:
			if s[i] != '-' {
				return false
			}
		default:
			if !isHex(s[i]) {
				return false
			}
		}
	}
	return true
}

func isPointer(s string) bool {
	if s == "" {
		return true
	}
	if s[0] != '/' {
		return false
	}
	for i := range len(s) {
		if s[i] == '~' && (i+1 == len(s) || s[i+1] != '0' && s[i+1] != '1') {
			return false
		}
	}
	return true
}

func isRelativePointer(s string) bool {
	rest := strings.TrimLeft(s, "0123456789")
	digits := len(s) - len(rest)
	return digits > 0 && (digits == 1 || s[0] != '0') && (rest == "#" || isPointer(rest))
}

const (
	subDelims = "!$&'()*+,;="
	pathChars = subDelims + ":@"
)

// isURI is appendix A of RFC 3986; an IRI may have characters of section 2.2 of RFC 3987 too, a reference may be
// relative.
func isURI(s string, iri, reference bool) bool {
	s, fragment, _ := strings.Cut(s, "#")
	s, query, _ := strings.Cut(s, "?")
	if !consists(fragment, pathChars+"/?", iri, false) || !consists(query, pathChars+"/?", iri, true) {
		return false
	}
	colon := strings.IndexByte(s, ':')
	switch {
	case colon > 0 && isScheme(s[:colon]):
		s = s[colon+1:]
	case !reference:
		return false
	default: // The first segment of a relative path has no colon (section 4.2).
		if first, _, _ := strings.Cut(s, "/"); strings.IndexByte(first, ':') >= 0 {
			return false
		}
	}
	if rest, ok := strings.CutPrefix(s, "//"); ok {
		authority, path := rest, ""
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			authority, path = rest[:i], rest[i:]
		}
		return isAuthority(authority, iri) && consists(path, pathChars+"/", iri, false)
	}
	return consists(s, pathChars+"/", iri, false)
}

func isScheme(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isLetter(c) && (i == 0 || !isDigit(c) && strings.IndexByte("+-.", c) < 0) {
			return false
		}
	}
	return true
}

func isAuthority(s string, iri bool) bool {
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		if !consists(s[:i], subDelims+":", iri, false) {
			return false
		}
		s = s[i+1:]
	}
	host, port := s, ""
	if literal, ok := strings.CutPrefix(s, "["); ok {
		end := strings.IndexByte(literal, ']')
		if end < 0 || !isIPLiteral(literal[:end]) {
			return false
		}
		host, port = "", literal[end+1:]
		if port != "" && port[0] != ':' {
			return false
		}
		port = strings.TrimPrefix(port, ":")
	} else if i := strings.LastIndexByte(s, ':'); i >= 0 {
		host, port = s[:i], s[i+1:]
	}
	return strings.Trim(port, "0123456789") == "" && consists(host, subDelims, iri, false)
}

// isIPLiteral is what stands in brackets (section 3.2.2): IPv6address or IPvFuture.
func isIPLiteral(s string) bool {
	if s == "" || s[0]|0x20 != 'v' {
		return isIPv6(s)
	}
	version, address, ok := strings.Cut(s[1:], ".")
	if !ok || version == "" || address == "" || strings.IndexByte(address, '%') >= 0 {
		return false
	}
	for i := range len(version) {
		if !isHex(version[i]) {
			return false
		}
	}
	return consists(address, subDelims+":", false, false)
}

// consists reports whether a text consists of unreserved characters, escapes and those of more, in an IRI also of those
// of RFC 3987.
func consists(s, more string, iri, private bool) bool {
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case isLetter(c), isDigit(c), strings.IndexByte("-._~", c) >= 0, strings.IndexByte(more, c) >= 0:
			i++
		case c == '%':
			if i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
				return false
			}
			i += 3
		case c >= utf8.RuneSelf && iri:
			r, n := utf8.DecodeRuneInString(s[i:])
			if !isIRIChar(r, private) {
				return false
			}
			i += n
		default:
			return false
		}
	}
	return true
}

// isIRIChar is ucschar, and iprivate of a query.
func isIRIChar(r rune, private bool) bool {
	switch {
	case '\u00a0' <= r && r <= '\ud7ff', '\uf900' <= r && r <= '\ufdcf', '\ufdf0' <= r && r <= '\uffef':
		return true
	case 0x10000 <= r && r <= 0xeffff:
		return r&0xffff <= 0xfffd && (r < 0xe0000 || r >= 0xe1000)
	}
	return private && ('\ue000' <= r && r <= '\uf8ff' || r >= 0xf0000 && r&0xffff <= 0xfffd)
}

// isTemplate is section 2 of RFC 6570, with the apostrophe in literals (erratum 6937).
func isTemplate(s string) bool {
	for {
		literal, rest, opened := strings.Cut(s, "{")
		if !isTemplateLiteral(literal) {
			return false
		}
		if !opened {
			return true
		}
		expression, after, closed := strings.Cut(rest, "}")
		if !closed || !isExpression(expression) {
			return false
		}
		s = after
	}
}

func isTemplateLiteral(s string) bool {
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case c == '%':
			if i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
				return false
			}
			i += 3
		case c >= utf8.RuneSelf:
			r, n := utf8.DecodeRuneInString(s[i:])
			if !isIRIChar(r, true) {
				return false
			}
			i += n
		case c <= ' ', c == 0x7f, strings.IndexByte("\"<>\\^`{|}", c) >= 0:
			return false
		default:
			i++
		}
	}
	return true
}

func isExpression(s string) bool {
	if s != "" && strings.IndexByte("+#./;?&=,!@|", s[0]) >= 0 {
		s = s[1:]
	}
	for variable := range strings.SplitSeq(s, ",") {
		name, explode := strings.CutSuffix(variable, "*")
		if prefix, length, ok := strings.Cut(name, ":"); ok {
			if _, ok := number(length, 1, 9999); !ok || explode || length[0] == '0' {
				return false
			}
			name = prefix
		}
		for part := range strings.SplitSeq(name, ".") {
			if part == "" || strings.ContainsAny(part, "-~") || !consists(part, "_", false, false) {
				return false
			}
		}
	}
	return true
}
