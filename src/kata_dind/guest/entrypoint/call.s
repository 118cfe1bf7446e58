/*
 * A program that makes one system call on its standard input. It ends with 0, or with the number of the error. call.sh
 * writes its bytes, with another `call` each time; tests/guest/test_call.py compares them with this source.
 *
 * This is all of the file, but for what elf.s has:
 *
 *     x86_64-linux-gnu-as -I . call.s -o call.o && x86_64-linux-gnu-objcopy --output-target=binary call.o call
 *     aarch64-linux-gnu-as -I . --defsym AARCH64=1 call.s -o call.o && ...
 *
 * Sources: syscall(2), ioctl_xfs_fsgrowfs(2), capabilities(7).
 */

	.include "elf.s"

.ifdef AARCH64
	.set IOCTL, 29
.else
	.set IOCTL, 16
.endif

	.org	CODE
.ifdef AARCH64	/* registers that are not set are 0 */
	adr	x9, call
	ldp	w8, w1, [x9]
	ldp	w2, w3, [x9, 8]
	svc	0
	neg	w0, w0
	mov	w8, 93					/* exit */
	svc	0
.else
	mov	$(ORIGIN + call - start), %ebx
	mov	(%rbx), %eax
	mov	4(%rbx), %esi
	mov	8(%rbx), %edx
	mov	12(%rbx), %r10d
	syscall
	neg	%eax
	xchg	%eax, %edi
	push	$60					/* exit */
	pop	%rax
	syscall
.endif

	.org	CODE + 30
call:	/* its number, and its second to fourth argument; the first and the fifth are 0 */
	.4byte IOCTL, 0x4c08, 1, 20			/* LOOP_SET_DIRECT_IO, which takes no fourth */
name:
	.asciz "security.capability"
value:	/* cap_net_raw=ep in its second version, of 20 bytes; beyond the end of the file they are 0 */
	.4byte 0x02000001, 0x2000
	.byte 0						/* base64 takes three at a time */
growth:	/* struct xfs_growfs_data: blocks, the percentage of inodes; call.sh appends it where it is needed */
