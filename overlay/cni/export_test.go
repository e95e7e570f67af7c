package cni

// What FuzzConf sees of the rest that a request holds.

// HasPrevResult reports whether the request has a prevResult that is one.
func (c Conf) HasPrevResult() bool {
	raw, result := c.prevResult()
	_ = allAddresses(result)
	return raw != nil
}

// ListsAttachments reports whether the request has a list of valid
// attachments.
func (c Conf) ListsAttachments() (bool, error) {
	_, listed, err := c.validAttachments()
	return listed, err
}
