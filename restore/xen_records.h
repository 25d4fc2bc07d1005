#ifndef RESTORE_XEN_RECORDS_H
#define RESTORE_XEN_RECORDS_H

/*
 * Numbers of Xen's stream formats that a writer needs (docs/formats/
 * xen-stream.md), and the order of the records behind the memory.
 */

#include "capture/xen_stream.h"

enum { /* libxc */
       XEN_REC_END = 0x00,
       XEN_REC_PAGE_DATA = 0x01,
       XEN_REC_PV_VCPU_BASIC = 0x04,
       XEN_REC_PV_VCPU_EXTENDED = 0x05,
       XEN_REC_PV_VCPU_XSAVE = 0x06,
       XEN_REC_SHARED_INFO = 0x07,
       XEN_REC_TSC_INFO = 0x08,
       XEN_REC_HVM_CONTEXT = 0x09,
       XEN_REC_HVM_PARAMS = 0x0a,
       XEN_REC_PV_VCPU_MSRS = 0x0c,
};

enum { /* libxl */
       XEN_LIBXL_END = 0x00,
       XEN_LIBXL_LIBXC_CONTEXT = 0x01,
};

/*
 * Put the records of a captured tail, of which xen_stream_check_tail() has
 * approved, into the order that the specification wants:
 *
 *     HVM, PVH  TSC_INFO, HVM_PARAMS, HVM_CONTEXT
 *     PV        TSC_INFO, SHARED_INFO, each vCPU: BASIC, EXTENDED, XSAVE, MSRS
 *
 * (libxc's own writer puts HVM_CONTEXT before HVM_PARAMS.) They are appended to
 * `ret`, which the caller has initialised.
 */
int xen_records_order_tail(const void *data, size_t size, struct buf *ret,
                           struct vn_err *err) VN_MUST_USE;

#endif
