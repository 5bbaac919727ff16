package tokenvault

import (
	"io"
	"net/http"
)

// Transport is an http.RoundTripper that adds the bearer header (RFC 6750
// section 2.1). Where the API answers 401 the token is reported as rejected
// and the request made once more with another, if its body can be had again
// (http.Request.GetBody); why there is no other is the error, so that
// ErrConsentRequired is seen at once. A redirect to another host is followed without it.
type Transport struct {
	Source *TokenSource
	// Base makes the requests; nil: http.DefaultTransport.
	Base http.RoundTripper
}

// RoundTrip makes the request.
func (t *Transport) RoundTrip(request *http.Request) (*http.Response, error) {
	if redirectedAway(request) {
		return t.base().RoundTrip(request)
	}
	token, err := t.Source.Get(request.Context())
	if err != nil {
		if request.Body != nil {
			_ = request.Body.Close() // a RoundTripper must
		}
		return nil, err
	}
	answer, err := t.base().RoundTrip(with(token, request))
	if err != nil || answer.StatusCode != http.StatusUnauthorized {
		return answer, err
	}
	t.Source.Reject(token.TokenVersion)
	again := with(token, request)
	if request.Body != nil && request.Body != http.NoBody {
		if request.GetBody == nil {
			return answer, nil
		}
		if again.Body, err = request.GetBody(); err != nil {
			return answer, nil
		}
	}
	other, err := t.Source.Get(request.Context())
	if err == nil && other.TokenVersion != token.TokenVersion {
		drop(answer.Body)
		again.Header.Set("Authorization", other.AuthorizationHeader())
		return t.base().RoundTrip(again)
	}
	if again.Body != nil {
		_ = again.Body.Close()
	}
	if err != nil {
		drop(answer.Body)
		return nil, err
	}
	return answer, nil
}

// drop reads and closes, so that the connection is used again.
func drop(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, 64<<10)
	_ = body.Close()
}

func (t *Transport) base() http.RoundTripper {
	if t.Base != nil {
		return t.Base
	}
	return http.DefaultTransport
}

// with copies: a RoundTripper must not change its request.
func with(token *Token, request *http.Request) *http.Request {
	copied := request.Clone(request.Context())
	copied.Header.Set("Authorization", token.AuthorizationHeader())
	return copied
}

func redirectedAway(request *http.Request) bool {
	first := request
	for first.Response != nil && first.Response.Request != nil {
		first = first.Response.Request
	}
	return first.URL.Scheme != request.URL.Scheme || first.URL.Host != request.URL.Host
}
