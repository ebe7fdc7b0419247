package tokenquota

import (
	"encoding/hex"
	"errors"
	"strconv"
	"strings"

	"github.com/policy-engine/policy-engine/policies/ratelimit/bucket"
)

// receipts are the keys of the metadata by which tokenUsage finds what tokenQuota charged: one for each of several quotas of a chain.
var receipts = [...]string{"tokenQuota.0", "tokenQuota.1", "tokenQuota.2", "tokenQuota.3"}

// receipt tells which bucket a request was charged to, at what rate, and how much. The response may come by another replica, so it has all that is needed.
type receipt struct {
	bucket, account bucket.Key
	rate            bucket.Rate // its Cost is the estimate
}

func (r *receipt) text() string {
	b := make([]byte, 0, 128)
	b = append(hex.AppendEncode(b, r.bucket[:]), ' ')
	b = append(hex.AppendEncode(b, r.account[:]), ' ')
	b = append(strconv.AppendInt(b, r.rate.Requests, 10), ' ')
	b = append(strconv.AppendInt(b, r.rate.Per, 10), ' ')
	b = append(strconv.AppendInt(b, r.rate.Burst, 10), ' ')
	return string(strconv.AppendInt(b, r.rate.Cost, 10))
}

var errReceipt = errors.New("charge usage: the metadata of tokenQuota is malformed")

func parseReceipt(text string) (r receipt, err error) {
	fields := strings.Split(text, " ")
	if len(fields) != 6 {
		return r, errReceipt
	}
	for i, key := range []*bucket.Key{&r.bucket, &r.account} {
		b, err := hex.DecodeString(fields[i])
		if err != nil || len(b) != len(key) {
			return r, errReceipt
		}
		copy(key[:], b)
	}
	var n [4]int64
	for i := range n {
		if n[i], err = strconv.ParseInt(fields[i+2], 10, 64); err != nil || n[i] < 1 {
			return r, errReceipt
		}
	}
	if n[0] > bucket.MaxRequests || n[1] > int64(bucket.MaxPer) || n[2] > bucket.MaxRequests || n[3] > n[2] {
		return r, errReceipt
	}
	var ok bool
	if r.rate, ok = bucket.NewRate(n[0], n[1], n[2], n[3]); !ok {
		return r, errReceipt
	}
	return r, nil
}
