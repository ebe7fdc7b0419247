// Package headername compares names of header fields as servers do that fold them into variables.
//
// CGI, WSGI, PHP, lighttpd and others make HTTP_X_USER_ID of x-user-id, x_user_id, x.user.id and x+user+id alike. So two names
// are the same here if they differ only in the case of letters and in characters that are neither letters nor digits.
package headername

// folded gives the byte that stands for a byte of a name: itself for digits and lower-case letters, the lower-case letter for an
// upper-case one, and '-' for all others.
var folded = func() (t [256]byte) {
	for i := range t {
		switch c := byte(i); {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			t[i] = c
		case 'A' <= c && c <= 'Z':
			t[i] = c + 'a' - 'A'
		default:
			t[i] = '-'
		}
	}
	return t
}()

// Equal reports whether a server may read one name as the other.
func Equal[A, B ~string | ~[]byte](a A, b B) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if folded[a[i]] != folded[b[i]] {
			return false
		}
	}
	return true
}

// Fold returns the one spelling that stands for all that are Equal to name: lower case, with '-' for what is neither a letter nor a
// digit.
func Fold(name string) string {
	out := []byte(name)
	for i := range out {
		out[i] = folded[out[i]]
	}
	return string(out)
}
