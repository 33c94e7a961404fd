# Turns an image recipe that inherits swupd-image into one of its variants, by BBCLASSEXTEND = "swupdimage:<variant>".

python swupdimage_handler() {
    d = e.data
    if d.getVar('BBEXTENDCURR') != 'swupdimage':
        return
    variant = d.getVar('BBEXTENDVARIANT')
    image = d.getVar('PN')
    d.setVar('SWUPD_IMAGE', image)
    d.setVar('PN', '%s-%s' % (image, variant))
    d.setVar('OVERRIDES', d.getVar('OVERRIDES', False) + ':swupdimage-' + variant)
    bb.build.deltask('do_swupd_list', d)
    if variant == 'mega':
        d.setVar('IMAGE_FSTYPES', '')
        # Later the image has forgotten its packages.
        d.appendVar('ROOTFS_POSTUNINSTALL_COMMAND', ' swupd_write_packages')
        for bundle in (d.getVar('SWUPD_BUNDLES') or '').split():
            d.appendVar('IMAGE_INSTALL', ' ' + (d.getVarFlag('BUNDLE_CONTENTS', bundle) or ''))
            d.appendVar('IMAGE_FEATURES', ' ' + (d.getVarFlag('BUNDLE_FEATURES', bundle) or ''))
        # The one task of a build that may use the network.
        d.delVarFlag('do_fetch', 'noexec')
        d.setVar('do_fetch', '    bb.build.exec_func("swupd_fetch_previous", d)\n')
        d.appendVarFlag('do_fetch', 'vardeps', ' SWUPD_DELTAPACK_VERSIONS')
        d.appendVarFlag('do_fetch', 'depends', ' swupd-server-native:do_populate_sysroot')
        bb.build.addtask('do_swupd_publish', 'do_swupd_ensure', 'do_image do_fetch', d)
        bb.build.addtask('do_swupd_ensure', 'do_build', 'do_swupd_publish', d)
        return
    d.setVarFlag('do_rootfs', 'depends', '%s-mega:do_swupd_publish swupd-server-native:do_populate_sysroot virtual/fakeroot-native:do_populate_sysroot' % image)
    d.setVar('do_rootfs', '    bb.build.exec_func("swupd_install", d)\n')
    # Signatures see variables only, no flags.
    d.setVarFlag('do_rootfs', 'vardepvalue', d.getVarFlag('SWUPD_IMAGES', variant) or '')
}
swupdimage_handler[doc] = "Makes the variant out of the image recipe, before its anonymous functions run"
addhandler swupdimage_handler
swupdimage_handler[eventmask] = "bb.event.RecipePreFinalise"

# The root file system of a flashable image: os-core and its bundles out of the stream, no package manager needed.
python swupd_install() {
    import oe.path
    root = d.getVar('IMAGE_ROOTFS')
    www = d.getVar('DEPLOY_DIR_SWUPD') + '/www'
    bundles = ','.join(['os-core'] + (d.getVarFlag('SWUPD_IMAGES', d.getVar('BBEXTENDVARIANT')) or '').split())
    trust = ['--certpath', d.getVar('SWUPD_TRUST_FILE')] if d.getVar('SWUPD_SIGNING_KEY') else ['--nosigcheck']
    state = d.getVar('WORKDIR') + '/swupd-state'
    for folder in (root, state):
        oe.path.remove(folder)
    swupd_run(d, 'swupd', 'os-install', root, '--version', d.getVar('OS_VERSION'), '--bundles', bundles, '--url', 'file://' + www, '--format', d.getVar('SWUPD_FORMAT'), '--statedir', state, '--no-scripts', '--no-progress', *trust)
}
swupd_install[doc] = "Installs the image from the stream, in place of do_rootfs"
