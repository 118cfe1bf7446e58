/*
 * A program that ends a container whose forced stop reaches nobody. It is run in the directory of the container's own
 * cgroup, whose files are its arguments: cgroup.freeze, cgroup.procs, cgroup.threads and cgroup.kill; a fifth says that
 * process 1 is the container's, too. It ends at once, and leaves a child of what becomes the command. watch.sh writes
 * its bytes; tests/guest/test_forced_stop.py compares them with this source.
 *
 * To kill a container, Kata's agent writes 1 to cgroup.freeze, reads cgroup.threads (in old versions cgroup.procs),
 * sends SIGKILL to what stands there, and writes 0 to cgroup.freeze: do_signal_process in
 * https://github.com/kata-containers/kata-containers/blob/main/src/agent/src/rpc.rs
 * Nothing stands there once the processes have moved one level down, but inotify tells of the three accesses. A pause
 * and its end are two writes without such a read between them. `docker top` of a paused container reads cgroup.procs,
 * too, but runc reads cgroup.freeze back when it pauses, which the agent never does: setFreezer in
 * https://github.com/opencontainers/cgroups/blob/main/fs2/freezer.go
 * Its states: 0; 1 after a write; 2 when a list was read since; 3 after one more write, which was the thaw, for a frozen
 * program can't take notice, unless a further write follows at once. Some writers truncate the file first, so a write
 * counts when it is closed; and opens are watched, for two equal events in a row become one.
 *
 * Where cgroups are mounted with `nsdelegate`, as Kata's agent and systemd mount them, nobody may write cgroup.kill of
 * the cgroup that is the root of his own namespace. So the program's namespace is one that begins one level down, where
 * it stands.
 *
 * This is all of the file, but for what elf.s has:
 *
 *     x86_64-linux-gnu-as -I . watch.s -o watch.o && x86_64-linux-gnu-objcopy --output-target=binary watch.o watch
 *     aarch64-linux-gnu-as -I . --defsym AARCH64=1 watch.s -o watch.o && ...
 *
 * Sources: syscall(2), inotify(7), ptrace(2), pid_namespaces(7), cgroup-v2.rst.
 */

	.include "elf.s"

	.set QUIET_MS, 500

.ifdef AARCH64
	.macro ask number
	mov	w8, \number
	svc	0
	.endm
.else
	.macro ask number
	push	$\number
	pop	%rax
	syscall
	.endm
.endif

	.org	CODE
.ifdef AARCH64
	ldr	x19, [sp], 16				/* the number of arguments; all other registers are 0 */
.ifndef FOREGROUND	/* for a test: qemu-user refuses CLONE_PARENT */
	mov	x0, 0x8011				/* CLONE_PARENT, SIGCHLD */
	ask	220					/* clone */
	cbnz	x0, done
.endif
	mov	x1, -1					/* no terminal, pipe or lock stays open because of it */
	ask	436					/* close_range */
	mov	x0, 1					/* PR_SET_PDEATHSIG, so that it ends with the command */
	mov	x1, 9
	ask	167					/* prctl */
	ask	157					/* setsid: what is sent to the command's group is not for it */
	mov	x0, 0x2000000				/* CLONE_NEWCGROUP */
	ask	97					/* unshare */
	mov	x0, 0
	ask	26					/* inotify_init1, which gives it descriptor 0 */
	ldp	x1, x20, [sp]				/* the first watch is cgroup.freeze */
	mov	x2, 0x29				/* IN_ACCESS, IN_CLOSE_WRITE, IN_OPEN */
	bl	watch
	mov	x1, x20					/* cgroup.procs */
	mov	x2, 0x10				/* IN_CLOSE_NOWRITE */
	bl	watch
	ldp	x1, x20, [sp, 16]			/* cgroup.threads */
	bl	watch
	mov	x0, 0x100000000				/* a struct pollfd: descriptor 0, POLLIN */
	str	x0, [sp]

forget:	/* nothing has happened for a while */
	cmp	w21, 3
	beq	kill
	mov	w21, 0					/* the state */
next:
	mov	x2, 0					/* for ever, if nothing is under way */
	cbz	w21, poll
	mov	w3, 0x1dcd0000				/* nearly QUIET_MS in nanoseconds, in one instruction */
	stp	xzr, x3, [sp, 16]			/* a struct timespec, which it may change */
	add	x2, sp, 16
poll:
	mov	x0, sp
	mov	x1, 1
	mov	x3, 0
	ask	73					/* ppoll */
	cbz	w0, forget
	mov	x0, 0
	sub	x1, sp, 112
	mov	x2, 112
	ask	63					/* read */
	add	x0, x1, x0
event:	/* a struct inotify_event without a name */
	ldp	w2, w3, [x1], 16			/* which watch, and what has happened */
	cmp	w2, 1
	beq	freezer
	cmp	w21, 1
	cinc	w21, w21, eq
	b	more
freezer:
	tbnz	w3, 3, written
	tbz	w3, 0, more
	mov	w21, 0
	b	more
written:
	mov	w2, 3
	cmp	w21, 2
	csinc	w21, w2, wzr, eq			/* 3, or 1 */
more:
	cmp	x1, x0
	blo	event
	b	next

watch:
	mov	x0, 0
	ask	27					/* inotify_add_watch */
	tbnz	w0, 31, done
	ret

kill:	/* cgroup.kill spares process 1, which only a tracer's end can kill from inside of its namespace. */
	cmp	x19, 5
	beq	rest
	mov	x0, 0x4206				/* PTRACE_SEIZE, with PTRACE_O_EXITKILL */
	mov	x1, 1
	mov	x2, 0
	mov	x3, 0x100000
	ask	117					/* ptrace */
rest:
	mov	x0, -100				/* AT_FDCWD */
	mov	x1, x20					/* cgroup.kill */
	mov	x2, 1					/* O_WRONLY, and the length of the text */
	ask	56					/* openat */
	mov	w3, '1'
	str	w3, [sp]
	mov	x1, sp
	ask	64					/* write */
done:
	mov	x0, 0
	ask	93					/* exit */
.else
	pop	%rbp					/* the number of arguments; all other registers are 0 */
	pop	%rax
	mov	$0x8011, %edi				/* CLONE_PARENT, SIGCHLD */
	ask	56					/* clone */
	test	%eax, %eax
	jnz	done
	xor	%edi, %edi				/* no terminal, pipe or lock stays open because of it */
	or	$-1, %esi
	mov	$436, %ax				/* close_range */
	syscall
	push	$1					/* PR_SET_PDEATHSIG, so that it ends with the command */
	pop	%rdi
	push	$9
	pop	%rsi
	mov	$157, %al				/* prctl */
	syscall
	mov	$253, %al				/* inotify_init, which gives it descriptor 0 */
	syscall
	mov	$112, %al				/* setsid: what is sent to the command's group is not for it */
	syscall
	shl	$25, %edi				/* CLONE_NEWCGROUP */
	mov	$272, %eax				/* unshare */
	syscall
	xor	%edi, %edi
	pop	%rsi					/* the first watch is cgroup.freeze */
	mov	$0x29, %dl				/* IN_ACCESS, IN_CLOSE_WRITE, IN_OPEN */
	call	watch
	pop	%rsi					/* cgroup.procs */
	mov	$0x10, %dl				/* IN_CLOSE_NOWRITE */
	call	watch
	pop	%rsi					/* cgroup.threads */
	call	watch
	push	$1					/* a struct pollfd: descriptor 0, POLLIN */
	pop	%rax
	shl	$32, %rax
	push	%rax

forget:	/* nothing has happened for a while */
	cmp	$3, %bl
	je	kill
	xor	%ebx, %ebx				/* the state */
next:
	mov	%rsp, %rdi
	push	$1
	pop	%rsi
	or	$-1, %edx				/* for ever, if nothing is under way */
	test	%ebx, %ebx
	jz	poll
	mov	$QUIET_MS, %edx
poll:
	ask	7					/* poll */
	test	%eax, %eax
	jz	forget
	xor	%edi, %edi
	lea	-112(%rsp), %rsi
	push	$112
	pop	%rdx
	xor	%eax, %eax				/* read */
	syscall
	lea	(%rsi,%rax), %r8
event:	/* a struct inotify_event without a name */
	lodsl						/* which watch */
	xchg	%eax, %ecx
	lodsl						/* what has happened */
	add	$8, %rsi
	dec	%ecx
	jz	freezer
	cmp	$1, %bl
	jne	more
	inc	%ebx
	jmp	more
freezer:
	test	$8, %al
	jnz	written
	test	$1, %al
	jz	more
	xor	%ebx, %ebx
	jmp	more
written:
	cmp	$2, %bl
	mov	$1, %bl
	jne	more
	mov	$3, %bl
more:
	cmp	%r8, %rsi
	jb	event
	jmp	next

watch:
	mov	$254, %eax				/* inotify_add_watch */
	syscall
	test	%eax, %eax
	js	done
	ret

kill:	/* cgroup.kill spares process 1, which only a tracer's end can kill from inside of its namespace. */
	cmp	$5, %ebp
	je	rest
	mov	$0x4206, %edi				/* PTRACE_SEIZE, with PTRACE_O_EXITKILL */
	push	$1
	pop	%rsi
	xor	%edx, %edx
	mov	$0x100000, %r10d
	ask	101					/* ptrace */
rest:
	pop	%rdi
	pop	%rdi					/* cgroup.kill */
	push	$1					/* O_WRONLY */
	pop	%rsi
	ask	2					/* open */
	xchg	%eax, %edi
	push	$'1'
	push	%rsp
	pop	%rsi
	push	$1
	pop	%rdx
	ask	1					/* write */
done:
	xor	%edi, %edi
	ask	60					/* exit */
.endif
